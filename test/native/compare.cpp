#include "compare.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace rankone::test {
namespace {

constexpr double kNoise = 16, kTiny = 1e-30;

struct Bucket {
  double error = 0, norm = 0, noise = 0;
  int64_t count = 0;
};

// Relative error of the worst bucket.
double worst(const std::vector<Bucket>& buckets, double rms, bool perToken) {
  double most = 0;
  for (const Bucket& b : buckets) {
    const double norm = std::sqrt(b.norm), floor = rms * (perToken ? 1 : std::sqrt(static_cast<double>(b.count)));
    const double scale = std::max(perToken ? std::max(norm, floor) : norm > 0 ? norm : floor, kTiny);
    most = std::max(most, std::max(std::sqrt(b.error) - kNoise * std::sqrt(b.noise), 0.0) / scale);
  }
  return most;
}

// The most that rounding to the dtype of `out` can have moved an element of it.
double lastRounding(const Array& out, double x) {
  const DType dtype = out.tensor().dtype;
  if ((dtype != DType::BF16 && dtype != DType::F16) || x == 0) return dtype == DType::F16 ? 0x1p-25 : 0;
  const bool wide = dtype == DType::BF16;
  return std::ldexp(1, std::max(std::ilogb(x), wide ? -126 : -14) - (wide ? 8 : 11));
}

}  // namespace

void expectNear(const std::string& label, const Array& out, const Reference& reference, Rows rows, double limit) {
  const Values& ref = reference.values;
  check(out.size() == static_cast<int64_t>(ref.size()), "%s: %lld elements, the reference has %zu", label.c_str(),
        static_cast<long long>(out.size()), ref.size());
  if (out.size() == 0) return;
  const Shape shape = out.shape();
  const bool tokens = rows == Rows::Tokens && shape.size() >= 3, states = rows == Rows::States && shape.size() >= 2;
  const int64_t B = tokens || states ? shape[0] : 1, T = tokens ? shape[1] : 1,
                H = tokens   ? shape[2]
                    : states ? shape[1]
                             : 1,
                inner = out.size() / (B * T * H);
  std::vector<Bucket> perRow(B * H), perToken(B * T * H);
  double total = 0;
  for (int64_t i = 0; i < out.size(); ++i) {
    const int64_t token = i / inner, row = token / (T * H) * H + token % H;
    const double x = out.at(i), noise = reference.noise.empty() ? 0 : reference.noise[i];
    check(std::isfinite(x), "%s: element %lld is %g, expected %g", label.c_str(), static_cast<long long>(i), x, ref[i]);
    const double off = std::max(std::fabs(x - ref[i]) - lastRounding(out, x), 0.0);
    total += ref[i] * ref[i];
    for (Bucket* b : {&perRow[row], &perToken[token]}) {
      b->error += off * off;
      b->norm += ref[i] * ref[i];
      b->noise += noise * noise;
      ++b->count;
    }
  }
  const double rms = std::sqrt(total / static_cast<double>(out.size())), row = worst(perRow, rms, false);
  check(row <= limit, "%s: off by %.2e over a row, at most %.1e", label.c_str(), row, limit);
  if (!tokens) return;
  const double token = worst(perToken, rms, true);
  check(token <= 10 * limit, "%s: off by %.2e at a token, at most %.1e", label.c_str(), token, 10 * limit);
}

void expectNear(const std::string& label, const Array& out, const Values& reference, double limit) {
  expectNear(label, out, {reference, {}}, Rows::Whole, limit);
}

Reference withNoise(const Values& values, const Values& shaken) {
  Reference r{values, Values(values.size())};
  for (size_t i = 0; i < values.size(); ++i) r.noise[i] = shaken[i] - values[i];
  return r;
}

}  // namespace rankone::test
