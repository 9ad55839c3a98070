#include <functional>
#include <iostream>
#include <queue>
#include <utility>
#include <vector>

static long long x;

static long long next() {
    x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
    return x >> 8;
}

int main() {
    long long n, m, w;
    std::cin >> n >> m >> w >> x;
    using Entry = std::pair<long long, int>;
    std::vector<std::vector<Entry>> edges(n);
    for (long long e = 0; e < m; e++) {
        long long u = next() % n, v = next() % n, weight = 1 + next() % w;
        edges[u].push_back({weight, (int)v});
    }
    std::vector<long long> distance(n, -1);
    std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> heap;
    heap.push({0, 0});
    while (!heap.empty()) {
        auto [length, u] = heap.top();
        heap.pop();
        if (distance[u] >= 0) continue;
        distance[u] = length;
        for (auto [weight, v] : edges[u])
            if (distance[v] < 0) heap.push({length + weight, v});
    }
    std::cout << distance[n - 1] << "\n";
}
