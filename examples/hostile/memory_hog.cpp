#include <iostream>
#include <vector>

int main() {
    long long n, total = 0;
    std::cin >> n;
    std::vector<std::vector<int>> tables;
    for (int i = 0; i < 256; i++) {  // 1 GiB in all, every page of it touched
        tables.emplace_back(1 << 20, i);
        total += tables.back()[(size_t)(n % (1 << 20))];
    }
    std::cout << total << "\n";
}
