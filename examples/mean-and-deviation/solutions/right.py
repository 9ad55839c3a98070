from math import sqrt


def main():
    n, base, modulus, x = map(int, input().split())
    total = squares = 0  # of the values without the base: exact, as Python's integers are
    for _ in range(n):
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        value = (x >> 8) % modulus
        total += value
        squares += value * value
    print(f"{base + total / n:.9f} {sqrt(n * squares - total * total) / n:.9f}")


main()
