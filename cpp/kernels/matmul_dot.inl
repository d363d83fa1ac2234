// matmul's sums of a few rows against lines along K, which are read once, as they lie: dot products, lane by lane. Part
// of matmul.inl.
#include "kernels/matmul_block.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kDotRows = 4;
constexpr int64_t kDotColumns = 64;  // of a task

// Where to prefetch from `streams` lines of `size` elements that are read side by side: 8 KB ahead of what memory
// sends, together, into L1 (into L2 alone takes a tenth longer); at their ends from the next ones, which begin `next`
// further.
struct Ahead {
  int64_t near, wrapped, end;
  RANKONE_INLINE Ahead(int64_t streams, int64_t bytes, int64_t size, int64_t next)
      : near(std::min(size, 8192 / streams / bytes)), wrapped(near - size + next), end(size - near) {}
  RANKONE_INLINE int64_t of(int64_t at) const { return at + (at < end ? near : wrapped); }
};

// Units of K from one row of x, `ldx` apart, to the next.
struct DotRows {
  const float* x;
  int64_t ldx, rows;
};

// The last units of a line, fewer than a vector of them.
template <class D>
__attribute__((noinline)) void copyUnits(const typename D::Element* line, int64_t steps, float* units) {
  for (int64_t k = 0; k < steps; k += kUnitSteps) units[k / kUnitSteps] = unit<D>(line + k, 1, k + 1 == steps);
}

// C lines: their sums with row i at sums[i * stripe].
template <int R, int C, class D>
RANKONE_INLINE void dotColumns(const DotRows& x, int64_t K, const typename D::Element* w, int64_t ld, float* sums,
                               int64_t stripe) {
  constexpr int64_t kStep = kLanes * kUnitSteps;
  Vec acc[R][C];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) acc[i][j] = zero();
  const float* row[R];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) row[i] = x.x + std::min<int64_t>(i, x.rows - 1) * x.ldx;
  const typename D::Element* line[C];
#pragma GCC unroll 8
  for (int j = 0; j < C; ++j) line[j] = w + j * ld;
  const Ahead ahead(C, sizeof *w, K, C * ld);
  int64_t k = 0;
  for (; k + kStep <= K; k += kStep) {
    const int64_t later = ahead.of(k);
    Vec b[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) {
      b[j] = unitsAlong<D>(line[j] + k);
      __builtin_prefetch(line[j] + later);
    }
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const Vec a = load(row[i] + k / kUnitSteps);
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) acc[i][j] = multiplyAdd(a, b[j], acc[i][j]);
    }
  }
  if (k < K) {
    const int rest = static_cast<int>(unitsOf(K - k));
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) {
      float units[kLanes] = {};
      copyUnits<D>(line[j] + k, K - k, units);
      const Vec b = load(units);
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) acc[i][j] = multiplyAdd(loadPart(row[i] + k / kUnitSteps, rest), b, acc[i][j]);
    }
  }
  for (int i = 0; i < R && i < x.rows; ++i)
    for (int j = 0; j < C; ++j) sums[i * stripe + j] = sum(acc[i][j]);
}

// `count` lines of w.
template <int R, class D>
__attribute__((noinline)) void dotLines(const DotRows& x, int64_t K, const typename D::Element* w, int64_t ld,
                                        int64_t count, float* sums, int64_t stripe) {
  constexpr int kColumns = R == 1 ? 8 : kLanes == 16 ? 4 : 2;  // several hide the latency of one chain of additions
  int64_t n = 0;
  for (; n + kColumns <= count; n += kColumns) dotColumns<R, kColumns, D>(x, K, w + n * ld, ld, sums + n, stripe);
  for (; n < count; ++n) dotColumns<R, 1, D>(x, K, w + n * ld, ld, sums + n, stripe);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
