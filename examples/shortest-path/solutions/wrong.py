from collections import deque

n, m, w, x = map(int, input().split())


def draw():
    global x
    x = (1103515245 * x + 12345) & 0x7FFFFFFF
    return x >> 8


edges = [[] for _ in range(n)]
for _ in range(m):
    u, v, weight = draw() % n, draw() % n, 1 + draw() % w
    edges[u].append((v, weight))
distance = {0: 0}
queue = deque([0])
while queue:  # the path with the fewest edges, which need not be the shortest
    u = queue.popleft()
    for v, weight in edges[u]:
        if v not in distance:
            distance[v] = distance[u] + weight
            queue.append(v)
print(distance.get(n - 1, -1))
