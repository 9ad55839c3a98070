#include <stdio.h>

int main(void) {
    for (;;) puts("the answer is near, the answer is near, the answer is near");
}
