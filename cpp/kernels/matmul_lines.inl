// matmul's sums of a few rows against lines across K, which are read once, as they lie, in long runs: y += x_k w_k.
// Part of matmul.inl.
#include "kernels/matmul_dot.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kLineFloats = 4096;  // of the sums of a piece of y, all rows together: they stay in L1

// U units of K, V vectors of columns (`lanes` of the last one). Unit u of row i is at x[u * ldx + i]. Two vectors of a
// line are prefetched `ahead` elements further.
template <class D, int R, int U, int V>
RANKONE_INLINE void addVectors(const float* x, int64_t ldx, const typename D::Element* w, int64_t ld, int64_t ahead,
                               bool last, int lanes, float* sums, int64_t stripe) {
  Vec acc[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[i][v] = load(sums + i * stripe + v * kLanes);
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) {
    const auto* line = w + u * kUnitSteps * ld;
    Vec b[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      if (V == 2 && v * kLanes * sizeof *w % 64 == 0) {
        __builtin_prefetch(line + v * kLanes + ahead);
        if constexpr (kUnitSteps > 1) __builtin_prefetch(line + v * kLanes + ld + ahead);
      }
      if constexpr (V == 1) b[v] = unitsAcross<D>(line, ld, last, lanes);
    }
    if constexpr (V == 2) pairAcross<D>(line, ld, last, b);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec a = broadcast(x + u * ldx + i);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[i][v] = multiplyAdd(a, b[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(sums + i * stripe + v * kLanes, acc[i][v]);
}

template <class D, int R, int U>
__attribute__((noinline)) void addLines(const float* x, int64_t ldx, const typename D::Element* w, int64_t ld,
                                        int64_t next, bool last, int64_t width, float* sums, int64_t stripe) {
  int64_t n = 0;
  if constexpr (U > 1) {
    const Ahead ahead(U * kUnitSteps, sizeof *w, width, next);
    for (; n + 2 * kLanes <= width; n += 2 * kLanes)
      addVectors<D, R, U, 2>(x, ldx, w + n, ld, ahead.of(n) - n, last, kLanes, sums + n, stripe);
  }
  for (; n < width; n += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, width - n));
    addVectors<D, R, U, 1>(x, ldx, w + n, ld, 0, last, lanes, sums + n, stripe);
  }
}

// Sums [R, stripe] of a block of K for columns [0, width) of w, whose lines begin at `w`.
template <int R, class D>
void lineBlock(const float* x, int64_t ldx, const typename D::Element* w, int64_t ld, int64_t width, int64_t steps,
               float* sums, int64_t stripe) {
  constexpr int kDeep = 8 / kUnitSteps;      // of 8 lines: of more at a time memory delivers less
  const int64_t units = steps / kUnitSteps;  // whole ones
  for (int64_t n = 0; n < R * stripe; n += kLanes) store(sums + n, zero());
  int64_t u = 0;
  for (; u + kDeep <= units; u += kDeep) {
    const int64_t next = std::min<int64_t>(kDeep, units - kDeep - u) * kUnitSteps * ld;
    addLines<D, R, kDeep>(x + u * ldx, ldx, w + u * kUnitSteps * ld, ld, next, false, width, sums, stripe);
  }
  for (; u * kUnitSteps < steps; ++u) {
    const bool last = u * kUnitSteps + 1 == steps;
    addLines<D, R, 1>(x + u * ldx, ldx, w + u * kUnitSteps * ld, ld, 0, last, width, sums, stripe);
  }
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
