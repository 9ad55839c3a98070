n, target, modulus, x = map(int, input().split())
seen = set()
pairs = 0
for _ in range(n):
    x = (1103515245 * x + 12345) % 2**31
    value = x // 256 % modulus
    if target - value in seen:  # counts a value that came twice only once
        pairs += 1
    seen.add(value)
print(pairs)
