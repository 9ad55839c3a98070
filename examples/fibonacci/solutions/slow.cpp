#include <iostream>

int main() {
    long long n, modulus;
    std::cin >> n >> modulus;
    long long a = 0, b = 1 % modulus;
    for (long long i = 0; i < n; i++) {
        long long sum = (a + b) % modulus;
        a = b;
        b = sum;
    }
    std::cout << a << "\n";
}
