#include <math.h>
#include <stdio.h>

/* Welford: the mean and the squared deviations so far, without cancellation. */
int main(void) {
    long long n, base, modulus, x;
    double mean = 0, squares = 0;
    if (scanf("%lld %lld %lld %lld", &n, &base, &modulus, &x) != 4) return 1;
    for (long long i = 1; i <= n; i++) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        double value = (double)(base + (x >> 8) % modulus), step = value - mean;
        mean += step / (double)i;
        squares += step * (value - mean);
    }
    printf("%.9f %.9f\n", mean, sqrt(squares / (double)n));
    return 0;
}
