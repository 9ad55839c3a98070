#include <stdio.h>

int main(void) {
    long long n, modulus;
    if (scanf("%lld %lld", &n, &modulus) != 2) return 1;
    long long a = 0, b = 1 % modulus;
    for (int bit = 62; bit >= 0; bit--) {
        long long even = a * ((2 * b - a + modulus) % modulus) % modulus;
        long long odd = (a * a + b * b) % modulus;
        a = even;
        b = odd;
        if (n >> bit & 1) {
            long long sum = (a + b) % modulus;
            a = b;
            b = sum;
        }
    }
    printf("%lld\n", a % modulus);
    return 0;
}
