from bisect import bisect_left


def main():
    n, modulus, x = map(int, input().split())
    tails = []  # tails[k]: the smallest end of an increasing subsequence of length k + 1
    for _ in range(n):
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        value = (x >> 8) % modulus
        position = bisect_left(tails, value)
        if position == len(tails):
            tails.append(value)
        else:
            tails[position] = value
    print(len(tails))


main()
