#include <iostream>
#include <unordered_map>
#include <vector>

int main() {
    long long n, k, modulus, x, total = 0;
    std::cin >> n >> k >> modulus >> x;
    std::vector<int> values(n);
    std::unordered_map<int, int> window;
    for (long long i = 0; i < n; i++) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        values[i] = (int)((x >> 8) % modulus);
        window[values[i]]++;
        if (i >= k) {
            auto leaving = window.find(values[i - k]);
            if (--leaving->second == 0) window.erase(leaving);
        }
        if (i >= k - 1) total += (long long)window.size();
    }
    std::cout << total << "\n";
}
