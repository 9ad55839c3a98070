#include <array>
#include <iostream>

using Matrix = std::array<long long, 4>;

static Matrix multiply(const Matrix& a, const Matrix& b, long long modulus) {
    return {(a[0] * b[0] + a[1] * b[2]) % modulus, (a[0] * b[1] + a[1] * b[3]) % modulus,
            (a[2] * b[0] + a[3] * b[2]) % modulus, (a[2] * b[1] + a[3] * b[3]) % modulus};
}

int main() {
    long long n, modulus;
    std::cin >> n >> modulus;
    Matrix power{1, 0, 0, 1}, square{1, 1, 1, 0};
    for (; n > 0; n /= 2) {
        if (n % 2 == 1) power = multiply(power, square, modulus);
        square = multiply(square, square, modulus);
    }
    std::cout << power[1] % modulus << "\n";
}
