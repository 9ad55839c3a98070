#include <stdio.h>

int main(void) {
    long long n, sum = 0;
    if (scanf("%lld", &n) != 1) return 1;
    for (long long i = 2; i <= n; i++) {
        long long divisor = 2;
        while (i % divisor != 0) divisor++;
        if (divisor == i) sum += i;
    }
    printf("%lld\n", sum);
    return 0;
}
