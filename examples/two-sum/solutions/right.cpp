#include <algorithm>
#include <iostream>
#include <vector>

int main() {
    long long n, target, modulus, x;
    std::cin >> n >> target >> modulus >> x;
    std::vector<long long> values(n);
    for (auto& value : values) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        value = (x >> 8) % modulus;
    }
    std::sort(values.begin(), values.end());
    long long ordered = 0;  // pairs (i, j) in both orders, and i == j
    for (long long value : values) {
        auto range = std::equal_range(values.begin(), values.end(), target - value);
        ordered += range.second - range.first;
        ordered -= 2 * value == target;
    }
    std::cout << ordered / 2 << "\n";
}
