from itertools import compress


def main():
    n = int(input())
    if n < 2:
        print(0)
        return
    size = (n + 1) // 2  # index i stands for the odd number 2i + 1
    odd = bytearray([1]) * size
    odd[0] = 0
    i = 1
    while (2 * i + 1) ** 2 <= n:
        if odd[i]:
            step = 2 * i + 1
            start = (step * step) // 2
            odd[start::step] = bytes(len(range(start, size, step)))
        i += 1
    print(2 + sum(compress(range(1, 2 * size, 2), odd)))


main()
