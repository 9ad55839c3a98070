#include <stdio.h>

static int count[1000000], values[120000];

int main(void) {
    long long n, k, modulus, x, distinct = 0, total = 0;
    if (scanf("%lld %lld %lld %lld", &n, &k, &modulus, &x) != 4) return 1;
    for (long long i = 0; i < n; i++) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        values[i] = (int)((x >> 8) % modulus);
        if (count[values[i]]++ == 0) distinct++;
        if (i >= k && --count[values[i - k]] == 0) distinct--;
        if (i >= k - 1) total += distinct;
    }
    printf("%lld\n", total);
    return 0;
}
