// Routing of mixture-of-memories (Du et al., 2025, arXiv:2502.13685). A token goes to the k memories with the largest
// logits, of equal ones to those that come first, with the softmax of its logits as weights, over all memories or over
// those k. Its entries, one to a memory, are put by memory, then by sequence, then by time: a stable counting sort, so
// that each (memory, sequence) is a packed sequence and each memory one block of rows.
//
// Sums over a token's entries are taken in the order of its memories, in float32. Limit: memory bandwidth.
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// The k largest of x, NaN before all, of equal ones the first.
inline void largestOf(const float* x, int64_t M, int64_t k, int32_t* chosen) {
  const auto before = [&](int64_t a, int64_t b) {
    const bool nan = x[a] != x[a], other = x[b] != x[b];
    return nan != other ? nan : x[a] > x[b];
  };
  int64_t count = 0;
  for (int64_t m = 0; m < M; ++m) {
    int64_t at = count;
    while (at > 0 && before(m, chosen[at - 1])) --at;
    if (at >= k) continue;
    count = std::min(count + 1, k);
    for (int64_t i = count - 1; i > at; --i) chosen[i] = chosen[i - 1];
    chosen[at] = static_cast<int32_t>(m);
  }
}

// p [M] relative to the largest logit; returns what the weights are divided by.
inline double powers(const float* x, int64_t M, const int32_t* chosen, int64_t k, bool renormalize, double* p) {
  const double most = x[chosen[0]];
  double total = 0;
  if (renormalize) {
    for (int64_t j = 0; j < k; ++j) total += p[chosen[j]] = std::exp(x[chosen[j]] - most);
  } else {
    for (int64_t m = 0; m < M; ++m) total += p[m] = std::exp(x[m] - most);
  }
  return total;
}

// Where a thread works on a row of logits.
struct MomRow {
  std::vector<float> x;
  std::vector<double> p;
  std::vector<int32_t> chosen;
  MomRow(int64_t M, int64_t k)
      : x(static_cast<size_t>(roundUp(M, kLanes))), p(static_cast<size_t>(M)), chosen(static_cast<size_t>(k)) {}
  double read(const FloatView& logits, int64_t row, int64_t M, int64_t k, bool renormalize) {
    widen(logits.data, logits.dtype, row * M, M, x.data());
    largestOf(x.data(), M, k, chosen.data());
    return powers(x.data(), M, chosen.data(), k, renormalize, p.data());
  }
};

// f(row of an entry, its pair) in the order of sequences and time.
template <class F>
void forEntries(const MomRouteArgs& a, F&& f) {
  for (int64_t n = 0; n < a.N; ++n) {
    const int64_t begin = a.starts ? a.starts[n] : n * a.T, end = a.starts ? a.starts[n + 1] : (n + 1) * a.T;
    for (int64_t i = begin * a.k; i < end * a.k; ++i) f(i, a.memories[i] * a.N + n);
  }
}

// to[0, width) = rows of x: sum of coefficients c times rows, or of rows alone.
template <class D, class Row, class By>
RANKONE_INLINE Vec sumAt(const FloatView& x, int64_t width, int64_t column, int n, int64_t k, Vec start, Row&& row,
                         By&& by) {
  Vec sum = start;
  for (int64_t j = 0; j < k; ++j) sum = by(get<D>(elements<D>(x.data, row(j) * width + column), n), j, sum);
  return sum;
}

template <class F>
void forTokens(const MomRowsArgs& a, int64_t rows, int64_t cost, F&& f) {
  const Split work = splitWork(rows, cost);
  parallelFor(work.tasks, a.cancel, [&](int64_t t) {
    for (int64_t i = work.begin(t); i < work.end(t); ++i) f(i);
  });
}

}  // namespace

void momRoute(const MomRouteArgs& a) {
  const Split work = splitWork(a.rows, 40 * a.M);
  parallelFor(work.tasks, a.cancel, [&](int64_t t) {
    MomRow row(a.M, a.k);
    for (int64_t i = work.begin(t); i < work.end(t); ++i) {
      const double total = row.read(a.logits, i, a.M, a.k, a.renormalize);
      for (int64_t j = 0; j < a.k; ++j) {
        a.memories[i * a.k + j] = row.chosen[static_cast<size_t>(j)];
        a.weights[i * a.k + j] =
            static_cast<float>(row.p[static_cast<size_t>(row.chosen[static_cast<size_t>(j)])] / total);
      }
    }
  });
  int32_t* starts = a.cuSeqlens;
  std::fill_n(starts, a.M * a.N + 1, 0);
  forEntries(a, [&](int64_t, int64_t pair) { ++starts[pair + 1]; });
  for (int64_t i = 0; i < a.M * a.N; ++i) starts[i + 1] += starts[i];
  std::vector<int32_t> next(starts, starts + a.M * a.N);
  forEntries(a, [&](int64_t entry, int64_t pair) {
    const int32_t at = next[static_cast<size_t>(pair)]++;
    a.order[at] = static_cast<int32_t>(entry);
    a.slots[entry] = at;
  });
}

void momRouteBackward(const MomRouteBackwardArgs& a) {
  const Split work = splitWork(a.rows, 40 * a.M);
  parallelFor(work.tasks, a.cancel, [&](int64_t t) {
    MomRow row(a.M, a.k);
    for (int64_t i = work.begin(t); i < work.end(t); ++i) {
      const double total = row.read(a.logits, i, a.M, a.k, a.renormalize);
      const float* dWeights = a.dWeights + i * a.k;
      float* to = a.dLogits + i * a.M;
      double mean = 0;
      for (int64_t j = 0; j < a.k; ++j)
        mean += row.p[static_cast<size_t>(row.chosen[static_cast<size_t>(j)])] / total * dWeights[j];
      for (int64_t m = 0; m < a.M; ++m)
        to[m] = a.renormalize ? 0 : static_cast<float>(-mean * row.p[static_cast<size_t>(m)] / total);
      for (int64_t j = 0; j < a.k; ++j) {
        const size_t m = static_cast<size_t>(row.chosen[static_cast<size_t>(j)]);
        to[m] = static_cast<float>((dWeights[j] - mean) * row.p[m] / total);
      }
    }
  });
}

void momGatherBackward(const MomGatherBackwardArgs& a) {
  withGradients(a.dY.dtype, a.dXDType, [&](auto d, auto g) {
    using D = decltype(d);
    using G = decltype(g);
    forTokens(a, a.tokens, 2 * a.k * a.width, [&](int64_t t) {
      for (int64_t c = 0; c < a.width; c += kLanes) {
        const int n = lanesLeft(c, a.width);
        const Vec sum = sumAt<D>(
            a.dY, a.width, c, n, a.k, zero(), [&](int64_t j) { return int64_t{a.slots[t * a.k + j]}; },
            [](Vec x, int64_t, Vec sum) { return sum + x; });
        put<G>(elements<G>(a.dX, t * a.width + c), sum, n);
      }
    });
  });
}

void momCombine(const MomCombineArgs& a) {
  withDType(a.o.dtype, [&](auto d) {
    using D = decltype(d);
    forTokens(a, a.tokens, 4 * a.k * a.width, [&](int64_t t) {
      for (int64_t c = 0; c < a.width; c += kLanes) {
        const int n = lanesLeft(c, a.width);
        const Vec start = a.shared ? get<D>(elements<D>(a.shared.data, t * a.width + c), n) : zero();
        const Vec sum = sumAt<D>(
            a.o, a.width, c, n, a.k, start, [&](int64_t j) { return int64_t{a.slots[t * a.k + j]}; },
            [&](Vec x, int64_t j, Vec sum) { return fma(splat(a.weights[t * a.k + j]), x, sum); });
        put<D>(elements<D>(a.y, t * a.width + c), sum, n);
      }
    });
  });
}

void momCombineBackward(const MomCombineBackwardArgs& a) {
  // The entries of every row, in ascending order: one each where slots come from a route.
  const int64_t entries = a.tokens * a.k;
  std::vector<int32_t> first(static_cast<size_t>(entries) + 2), found(static_cast<size_t>(entries));
  for (int64_t i = 0; i < entries; ++i) ++first[static_cast<size_t>(a.slots[i]) + 2];
  for (int64_t i = 0; i < entries; ++i) first[static_cast<size_t>(i) + 2] += first[static_cast<size_t>(i) + 1];
  for (int64_t i = 0; i < entries; ++i)
    found[static_cast<size_t>(first[static_cast<size_t>(a.slots[i]) + 1]++)] = static_cast<int32_t>(i);
  withGradients(a.dY.dtype, a.dODType, [&](auto d, auto g) {
    using D = decltype(d);
    using G = decltype(g);
    forTokens(a, entries, 4 * a.width, [&](int64_t i) {
      const int32_t begin = first[static_cast<size_t>(i)], end = first[static_cast<size_t>(i) + 1];
      for (int64_t c = 0; c < a.width; c += kLanes) {
        const int n = lanesLeft(c, a.width);
        const Vec sum = sumAt<D>(
            a.dY, a.width, c, n, end - begin, zero(),
            [&](int64_t j) { return found[static_cast<size_t>(begin + j)] / a.k; },
            [&](Vec x, int64_t j, Vec sum) {
              return fma(splat(a.weights[found[static_cast<size_t>(begin + j)]]), x, sum);
            });
        put<G>(elements<G>(a.dO, i * a.width + c), sum, n);
      }
    });
    forTokens(a, a.tokens * a.k, 4 * a.width, [&](int64_t entry) {
      const auto* o = elements<D>(a.o.data, int64_t{a.slots[entry]} * a.width);
      const auto* dY = elements<D>(a.dY.data, entry / a.k * a.width);
      double total = 0;  // over blocks of columns
      for (int64_t begin = 0; begin < a.width; begin += 32 * kLanes) {
        const int64_t end = std::min(a.width, begin + 32 * kLanes);
        Vec block = zero();
        for (int64_t c = begin; c < end; c += kLanes) {
          const int n = lanesLeft(c, end);
          block = fma(get<D>(o + c, n), get<D>(dY + c, n), block);
        }
        total += sum(block);
      }
      a.dWeights[entry] = static_cast<float>(total);
    });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
