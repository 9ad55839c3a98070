n, target, modulus, x = map(int, input().split())
values = []
for _ in range(n):
    x = (1103515245 * x + 12345) % 2**31
    values.append(x // 256 % modulus)
pairs = 0
for i in range(n):
    for j in range(i):
        if values[i] + values[j] == target:
            pairs += 1
print(pairs)
