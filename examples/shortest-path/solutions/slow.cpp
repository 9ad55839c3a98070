#include <iostream>
#include <vector>

static long long x;

static long long next() {
    x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
    return x >> 8;
}

// Floyd and Warshall: the distances of all pairs, where one is asked for.
int main() {
    const long long none = 4'000'000'000'000;
    long long n, m, w;
    std::cin >> n >> m >> w >> x;
    std::vector<std::vector<long long>> distance(n, std::vector<long long>(n, none));
    for (long long e = 0; e < m; e++) {
        long long u = next() % n, v = next() % n, weight = 1 + next() % w;
        if (weight < distance[u][v]) distance[u][v] = weight;
    }
    for (int k = 0; k < n; k++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                if (distance[i][k] + distance[k][j] < distance[i][j])
                    distance[i][j] = distance[i][k] + distance[k][j];
    std::cout << (distance[0][n - 1] < none ? distance[0][n - 1] : -1) << "\n";
}
