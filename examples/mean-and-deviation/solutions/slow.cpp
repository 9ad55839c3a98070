#include <cmath>
#include <iomanip>
#include <iostream>
#include <vector>

// The deviation from the differences of all pairs.
int main() {
    long long n, base, modulus, x;
    std::cin >> n >> base >> modulus >> x;
    std::vector<double> values(n);
    double total = 0, squares = 0;
    for (auto& value : values) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        value = (double)(base + (x >> 8) % modulus);
        total += value;
    }
    for (double one : values)
        for (double other : values) squares += (one - other) * (one - other);
    std::cout << std::setprecision(17) << total / (double)n << " "
              << std::sqrt(squares / 2) / (double)n << "\n";
}
