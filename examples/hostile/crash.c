#include <stdio.h>

int main(void) {
    int n, *values = NULL;
    if (scanf("%d", &n) != 1) return 1;
    for (int i = 0; i < n; i++) values[i] = i;
    printf("%d\n", values[0]);
    return 0;
}
