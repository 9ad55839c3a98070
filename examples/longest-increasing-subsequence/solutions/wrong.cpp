#include <iostream>

// Takes every value that is larger than the last one taken: greedy, and not the longest.
int main() {
    long long n, modulus, x, last = -1, length = 0;
    std::cin >> n >> modulus >> x;
    for (long long i = 0; i < n; i++) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        long long value = (x >> 8) % modulus;
        if (value > last) {
            last = value;
            length++;
        }
    }
    std::cout << length << "\n";
}
