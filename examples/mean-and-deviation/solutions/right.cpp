#include <cmath>
#include <iomanip>
#include <iostream>
#include <vector>

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
    double mean = total / (double)n;
    for (double value : values) squares += (value - mean) * (value - mean);
    std::cout << std::setprecision(17) << mean << "\n" << std::sqrt(squares / (double)n) << "\n";
}
