#include <iostream>
#include <vector>

// A linear sieve: every composite is struck out once, by its smallest prime.
int main() {
    int n;
    std::cin >> n;
    std::vector<int> primes;
    std::vector<bool> composite(n + 1);
    long long sum = 0;
    for (int i = 2; i <= n; i++) {
        if (!composite[i]) {
            primes.push_back(i);
            sum += i;
        }
        for (int prime : primes) {
            if ((long long)prime * i > n) break;
            composite[prime * i] = true;
            if (i % prime == 0) break;
        }
    }
    std::cout << sum << "\n";
}
