// losses_i = log(sum_v e^(x_v - m)) + m - x_t for row i with target t, loss = their mean over the rows that count;
// dLogits = (softmax - onehot) dLoss / count.
// One pass over a row keeps the running maximum m and the sum relative to it (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018), in pieces of 1024 logits: float32 inside a piece, float64 across and for
// everything after. Error of a loss below 1e-6 (1 + |loss|); the mean is taken in float64 in ascending order.
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kPiece = 1024;

struct RowSum {
  float largest;  // m
  double sum;     // of e^(x - m)
};

template <class D>
RowSum rowSum(const typename D::Element* x, int64_t V) {
  const float lowest = -std::numeric_limits<float>::infinity();
  RowSum row{lowest, 0};
  for (int64_t piece = 0; piece < V; piece += kPiece) {
    const int64_t end = std::min(V, piece + kPiece), whole = piece + (end - piece) / kLanes * kLanes;
    Vec top = splat(lowest);
    for (int64_t i = piece; i < whole; i += kLanes) {
      const Vec v = D::load(x + i);
      top = select(v > top, v, top);  // passes over NaN, which the sum then shows
    }
    float m = std::max(row.largest, largest(top));
    for (int64_t i = whole; i < end; ++i) {
      const float v = D::one(x + i);
      m = v > m ? v : m;
    }
    if (m > row.largest) {
      row.sum *= std::exp(static_cast<double>(row.largest) - m);
      row.largest = m;
    }
    const Vec base = splat(m == lowest ? 0.0f : m);  // -inf - -inf is no number
    Vec acc = zero();
    int64_t i = piece;
    for (; i < whole; i += kLanes) acc += exp(D::load(x + i) - base);
    float rest = 0;
    if (i < end) {
      const int n = lanesLeft(i, end);
      float e[kLanes];
      store(e, exp(D::loadPart(x + i, n) - base));
      for (int j = 0; j < n; ++j) rest += e[j];
    }
    row.sum += static_cast<double>(sum(acc)) + rest;
  }
  return row;
}

// The targets were validated before, but they may lie in memory that another thread writes.
int64_t target(const int32_t* targets, int64_t row, int64_t V, int64_t ignoreIndex) {
  const int64_t t = *static_cast<const volatile int32_t*>(targets + row);
  if (t != ignoreIndex && (t < 0 || t >= V)) fail(ErrorKind::Range, "targets: changed during the call");
  return t;
}

template <class D>
void forwardRows(const CrossEntropyArgs& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t t = target(p.targets, row, p.V, p.ignoreIndex);
    if (t == p.ignoreIndex) {
      p.losses[row] = 0;
      continue;
    }
    const auto* x = elements<D>(p.logits, row * p.V);
    const RowSum s = rowSum<D>(x, p.V);
    p.losses[row] = static_cast<float>(std::log(s.sum) + (static_cast<double>(s.largest) - D::one(x + t)));
  }
}

template <class D, class G>
void backwardRows(const CrossEntropyBackwardArgs& p, double scale, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t t = target(p.targets, row, p.V, p.ignoreIndex);
    auto* d = elements<G>(p.dLogits, row * p.V);
    if (t == p.ignoreIndex) {
      std::memset(d, 0, static_cast<size_t>(p.V) * sizeof(*d));
      continue;
    }
    const auto* x = elements<D>(p.logits, row * p.V);
    const RowSum s = rowSum<D>(x, p.V);
    const Vec base = splat(s.largest), factor = splat(static_cast<float>(scale / s.sum));
    for (int64_t i = 0; i < p.V; i += kLanes) {
      const int n = lanesLeft(i, p.V);
      put<G>(d + i, exp(get<D>(x + i, n) - base) * factor, n);
    }
    // the difference in float64: softmax may be near 1
    const double top = std::exp(static_cast<double>(D::one(x + t)) - s.largest);
    G::putOne(d + t, static_cast<float>(scale * (top / s.sum - 1)));
  }
}

}  // namespace

void crossEntropy(const CrossEntropyArgs& p) {
  const Split s = splitWork(p.N, 24 * p.V);
  withDType(p.dtype, [&](auto d) {
    parallelFor(s.tasks, p.cancel, [&](int64_t t) { forwardRows<decltype(d)>(p, s.begin(t), s.end(t)); });
  });
  double total = 0;
  int64_t count = 0;
  for (int64_t row = 0; row < p.N; ++row) {
    if (target(p.targets, row, p.V, p.ignoreIndex) == p.ignoreIndex) continue;
    total += p.losses[row];
    ++count;
  }
  *p.loss = count ? static_cast<float>(total / static_cast<double>(count)) : 0.0f;
}

void crossEntropyBackward(const CrossEntropyBackwardArgs& p) {
  int64_t count = 0;
  for (int64_t row = 0; row < p.N; ++row) count += target(p.targets, row, p.V, p.ignoreIndex) != p.ignoreIndex;
  const double scale = p.dLoss / static_cast<double>(std::max<int64_t>(1, count));
  const Split s = splitWork(p.N, 48 * p.V);
  withGradients(p.dtype, p.gradDType, [&](auto d, auto g) {
    parallelFor(s.tasks, p.cancel,
                [&](int64_t t) { backwardRows<decltype(d), decltype(g)>(p, scale, s.begin(t), s.end(t)); });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
