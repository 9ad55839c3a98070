#include <algorithm>
#include <iostream>
#include <vector>

int main() {
    long long n, modulus, x;
    std::cin >> n >> modulus >> x;
    std::vector<long long> tails;
    for (long long i = 0; i < n; i++) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        long long value = (x >> 8) % modulus;
        auto position = std::lower_bound(tails.begin(), tails.end(), value);
        if (position == tails.end()) tails.push_back(value);
        else *position = value;
    }
    std::cout << tails.size() << "\n";
}
