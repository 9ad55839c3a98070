#include <cmath>
#include <iostream>

// Binet's formula in floating point: right as long as F(n) fits into 53 bits.
int main() {
    long long n, modulus;
    std::cin >> n >> modulus;
    double root = std::sqrt(5.0);
    double value = std::round(std::pow((1 + root) / 2, (double)n) / root);
    std::cout << (long long)std::fmod(value, (double)modulus) << "\n";
}
