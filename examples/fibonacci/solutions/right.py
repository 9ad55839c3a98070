def main():
    n, modulus = map(int, input().split())
    a, b = 0, 1  # F(k) and F(k + 1), for k the leading bits of n
    for bit in bin(n)[2:]:
        a, b = a * (2 * b - a) % modulus, (a * a + b * b) % modulus
        if bit == "1":
            a, b = b, (a + b) % modulus
    print(a % modulus)


main()
