n, k, modulus, x = map(int, input().split())
values = []
for _ in range(n):
    x = (1103515245 * x + 12345) % 2**31
    values.append(x // 256 % modulus)
total = 0
window = set()
for i, value in enumerate(values):
    window.add(value)
    if i >= k:
        window.discard(values[i - k])  # may still stand elsewhere in the window
    if i >= k - 1:
        total += len(window)
print(total)
