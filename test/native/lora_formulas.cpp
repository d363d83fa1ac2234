#include "lora_formulas.h"

#include <algorithm>
#include <cmath>

namespace rankone::test {

uint32_t philoxWord(uint64_t seed, int64_t row, int64_t column) {
  uint32_t c[4] = {static_cast<uint32_t>(column / 4), static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t{0xD2511F53} * c[0], q = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(q >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(q),
                              static_cast<uint32_t>(p >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(p)};
    std::copy(next, next + 4, c);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return c[column % 4];
}

void activate(Phi phi, int64_t active, const Values& p, const Values& dh, Values& h, Values& dp) {
  const size_t n = p.size();
  h = dp = Values(n);
  if (phi == Phi::SelfTopK) {
    double norm = 0, total = 0, mean = 0, along = 0;
    for (double x : p) norm += x * x;
    norm = std::sqrt(norm);
    if (norm == 0) return;
    std::vector<size_t> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return p[i] > p[j]; });
    order.resize(std::min<size_t>(n, active));
    Values weight(n), ds(n);
    for (size_t i : order) total += weight[i] = std::exp(p[i] / norm);
    for (size_t i : order) {
      weight[i] /= total;
      h[i] = weight[i] * p[i];
      mean += weight[i] * dh[i] * p[i];
    }
    for (size_t i : order) ds[i] = weight[i] * (dh[i] * p[i] - mean);
    for (size_t i : order) along += ds[i] * p[i] / norm;
    for (size_t i = 0; i < n; ++i) dp[i] = weight[i] * dh[i] + (ds[i] - along * p[i] / norm) / norm;
    return;
  }
  for (size_t i = 0; i < n; ++i) {
    const double x = p[i], normal = 0.5 * std::erfc(-x / std::sqrt(2.0)), sigmoid = 1 / (1 + std::exp(-x));
    switch (phi) {
      case Phi::Relu:
        h[i] = std::max(x, 0.0);
        dp[i] = x > 0 ? dh[i] : 0;
        break;
      case Phi::Gelu:
        h[i] = x * normal;
        dp[i] = dh[i] * (normal + x * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0)));
        break;
      case Phi::Silu:
        h[i] = x * sigmoid;
        dp[i] = dh[i] * sigmoid * (1 + x * (1 - sigmoid));
        break;
      default: h[i] = x; dp[i] = dh[i];
    }
  }
}

}  // namespace rankone::test
