// Selects the top k of arrays of bfloat16 with libstdc++, as torch's CPU kernel does:
// partial_sort where 64k <= n, else nth_element. Reads, from the file named, records of
// n and k (32 bits each, little-endian) and n numbers (16 bits each); prints a line of
// positions, sorted, for each.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

int main(int argc, char** argv) {
  FILE* f = argc == 2 ? fopen(argv[1], "rb") : nullptr;
  if (!f) return 2;
  uint32_t head[2];
  while (fread(head, 4, 2, f) == 2) {
    const uint32_t n = head[0], k = head[1];
    std::vector<uint16_t> a(n);
    if (fread(a.data(), 2, n, f) != n) return 3;
    std::vector<std::pair<float, int64_t>> q(n);
    for (uint32_t i = 0; i < n; i++) {
      const uint32_t bits = uint32_t(a[i] & 0x7fff) << 16;
      float v;
      memcpy(&v, &bits, 4);
      q[i] = {v, i};
    }
    auto before = [](const std::pair<float, int64_t>& x, const std::pair<float, int64_t>& y) {
      return (std::isnan(x.first) && !std::isnan(y.first)) || x.first > y.first;
    };
    if (uint64_t(k) * 64 <= n)
      std::partial_sort(q.begin(), q.begin() + k, q.end(), before);
    else
      std::nth_element(q.begin(), q.begin() + k - 1, q.end(), before);
    std::vector<int64_t> pos;
    for (uint32_t i = 0; i < k; i++) pos.push_back(q[i].second);
    std::sort(pos.begin(), pos.end());
    for (uint32_t i = 0; i < k; i++) printf("%s%lld", i ? " " : "", (long long)pos[i]);
    printf("\n");
  }
  return 0;
}
