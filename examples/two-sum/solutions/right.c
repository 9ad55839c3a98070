#include <stdint.h>
#include <stdio.h>

static long long seen[1000000];

int main(void) {
    long long n, target, modulus, x, pairs = 0;
    if (scanf("%lld %lld %lld %lld", &n, &target, &modulus, &x) != 4) return 1;
    for (long long i = 0; i < n; i++) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        long long value = (x >> 8) % modulus, partner = target - value;
        if (partner >= 0 && partner < modulus) pairs += seen[partner];
        seen[value]++;
    }
    printf("%lld\n", pairs);
    return 0;
}
