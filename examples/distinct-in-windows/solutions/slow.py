n, k, modulus, x = map(int, input().split())
values = []
for _ in range(n):
    x = (1103515245 * x + 12345) % 2**31
    values.append(x // 256 % modulus)
print(sum(len(set(values[start : start + k])) for start in range(n - k + 1)))
