#include <iostream>
#include <vector>

int main() {
    long long n, modulus, x;
    std::cin >> n >> modulus >> x;
    std::vector<int> values(n), length(n, 1);
    int longest = 0;
    for (int i = 0; i < n; i++) {
        x = (1103515245LL * x + 12345) & 0x7FFFFFFF;
        values[i] = (int)((x >> 8) % modulus);
        for (int j = 0; j < i; j++)
            if (values[j] < values[i] && length[j] >= length[i]) length[i] = length[j] + 1;
        if (length[i] > longest) longest = length[i];
    }
    std::cout << longest << "\n";
}
