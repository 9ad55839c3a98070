#include <stdio.h>

#define NODES 3000
#define EDGES 20000
static int from[EDGES], to[EDGES], weight[EDGES];
static long long distance[NODES], x;

static long long next(void) {
    x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
    return x >> 8;
}

/* Bellman and Ford, until a round changes nothing. */
int main(void) {
    long long n, m, w;
    if (scanf("%lld %lld %lld %lld", &n, &m, &w, &x) != 4) return 1;
    for (int e = 0; e < m; e++) {
        from[e] = (int)(next() % n);
        to[e] = (int)(next() % n);
        weight[e] = (int)(1 + next() % w);
    }
    for (int v = 1; v < n; v++) distance[v] = -1;
    for (int changed = 1; changed;) {
        changed = 0;
        for (int e = 0; e < m; e++) {
            if (distance[from[e]] < 0) continue;
            long long length = distance[from[e]] + weight[e];
            if (distance[to[e]] < 0 || length < distance[to[e]]) {
                distance[to[e]] = length;
                changed = 1;
            }
        }
    }
    printf("%lld\n", distance[n - 1]);
    return 0;
}
