// The sweeps over one column block of the state, [K][kBlock]: rank-one writes and reads fused into one load and one
// store of each row. Kept out of line: inlined into their callers the accumulators spill.
#include "kernels/recurrence_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// A multiplier of exactly zero is a reset: it clears what a product would keep (Inf, NaN).
RANKONE_INLINE Vec rescaled(Vec s, float by) { return by == 0.0f ? zero() : s * by; }

// Sums over K run in stretches of this many rows: a longer chain of float32 additions loses digits (K = 512).
constexpr int64_t kSumRows = 128;

template <class F>
RANKONE_INLINE void inStretches(int64_t K, F&& f) {
  for (int64_t i = 0; i < K; i += kSumRows) f(i, K - i < kSumRows ? K : i + kSumRows);
}

struct ReverseRows {
  const float *q0, *q1, *k0, *k1;  // keys and queries of the pending writes
  const float *r0, *r1;            // rows to read
};

// D += q0 dO0^T + q1 dO1^T + k0 dp0^T + k1 dp1^T, then d = D^T r. w holds dO0, dO1, dp0, dp1.
template <bool kQ0, bool kQ1, bool kKeys, bool kRead>
__attribute__((noinline)) void reversePass(float* D, int64_t i0, int64_t i1, const ReverseRows& rows, const Vec* w,
                                           Vec* d) {
  Vec x0[kVecs], x1[kVecs], y0[kVecs], y1[kVecs], d0[kVecs], d1[kVecs];
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    x0[j] = w[j];
    x1[j] = w[kVecs + j];
    y0[j] = w[2 * kVecs + j];
    y1[j] = w[3 * kVecs + j];
    d0[j] = d1[j] = zero();
  }
  const float *q0 = rows.q0, *q1 = rows.q1, *k0 = rows.k0, *k1 = rows.k1, *r0 = rows.r0, *r1 = rows.r1;
  for (int64_t i = i0; i < i1; ++i) {
    float* row = D + i * kBlock;
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      Vec s = load(row + j * kLanes);
      if (kQ0) s = fma(splat(q0[i]), x0[j], s);
      if (kQ1) s = fma(splat(q1[i]), x1[j], s);
      if (kKeys) s = fma(splat(k0[i]), y0[j], s);
      if (kKeys) s = fma(splat(k1[i]), y1[j], s);
      if (kQ0 || kQ1 || kKeys) store(row + j * kLanes, s);
      if (kRead) d0[j] = fma(splat(r0[i]), s, d0[j]);
      if (kRead) d1[j] = fma(splat(r1[i]), s, d1[j]);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVecs && kRead; ++j) {
    d[j] += d0[j];
    d[kVecs + j] += d1[j];
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
