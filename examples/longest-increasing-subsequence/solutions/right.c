#include <stdio.h>

/* A Fenwick tree of maxima over the values. */
static int best[1000002];

int main(void) {
    long long n, modulus, x;
    int longest = 0;
    if (scanf("%lld %lld %lld", &n, &modulus, &x) != 3) return 1;
    for (long long i = 0; i < n; i++) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        int value = (int)((x >> 8) % modulus) + 1, length = 1;
        for (int k = value - 1; k > 0; k -= k & -k)
            if (best[k] >= length) length = best[k] + 1;
        for (int k = value; k <= modulus; k += k & -k)
            if (best[k] < length) best[k] = length;
        if (length > longest) longest = length;
    }
    printf("%d\n", longest);
    return 0;
}
