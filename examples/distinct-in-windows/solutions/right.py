def main():
    n, k, modulus, x = map(int, input().split())
    # Each position counts in the windows in which its value comes first: those that hold it and
    # start behind the value's last occurrence.
    last = [-1] * modulus
    total = 0
    for i in range(n):
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        value = (x >> 8) % modulus
        first_start = last[value] + 1
        if first_start <= i - k:
            first_start = i - k + 1
        last_start = i if i <= n - k else n - k
        if last_start >= first_start:
            total += last_start - first_start + 1
        last[value] = i
    print(total)


main()
