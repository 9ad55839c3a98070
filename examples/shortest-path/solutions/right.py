from heapq import heappop, heappush


def main():
    n, m, w, x = map(int, input().split())
    edges = [[] for _ in range(n)]
    for _ in range(m):
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        u = (x >> 8) % n
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        v = (x >> 8) % n
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        edges[u].append((v, 1 + (x >> 8) % w))
    distance = [None] * n
    heap = [(0, 0)]
    while heap:
        length, u = heappop(heap)
        if distance[u] is not None:
            continue
        distance[u] = length
        for v, weight in edges[u]:
            if distance[v] is None:
                heappush(heap, (length + weight, v))
    print(-1 if distance[n - 1] is None else distance[n - 1])


main()
