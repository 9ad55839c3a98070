n = int(input().split()[0])
while n != 0:
    n = n // 2 if n % 2 == 0 else 3 * n + 1
print(n)
