def main():
    n, target, modulus, x = map(int, input().split())
    seen = [0] * modulus
    pairs = 0
    for _ in range(n):
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        value = (x >> 8) % modulus
        partner = target - value
        if 0 <= partner < modulus:
            pairs += seen[partner]
        seen[value] += 1
    print(pairs)


main()
