// The sweeps over one column block of the state, [K][kBlock]: rank-one writes and reads fused into one load and one
// store of each row. Kept out of line: inlined into their callers the accumulators spill.
#include "kernels/recurrence_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

struct PassRows {
  const float *w0, *w1;  // keys of the pending writes
  const float *k0, *k1, *q0, *q1;
  const float* rescale;  // per row
};

// A multiplier of exactly zero is a reset: it clears what a product would keep (Inf, NaN).
RANKONE_INLINE Vec rescaled(Vec s, float by) { return by == 0.0f ? zero() : s * by; }

// Rows [i0, i1) of a block, their reads added to p and r.
template <bool kRead0, bool kRead1, bool kRescale>
__attribute__((noinline)) void deltaPass(float* S, int64_t i0, int64_t i1, const PassRows& rows, const Vec* u, Vec* p,
                                         Vec* r) {
  Vec p0[kVecs], p1[kVecs], r0[kVecs], r1[kVecs], u0[kVecs], u1[kVecs];
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    p0[j] = p1[j] = r0[j] = r1[j] = zero();
    u0[j] = u[j];
    u1[j] = u[kVecs + j];
  }
  const float *w0 = rows.w0, *w1 = rows.w1, *k0 = rows.k0, *k1 = rows.k1, *q0 = rows.q0, *q1 = rows.q1;
  for (int64_t i = i0; i < i1; ++i) {
    float* row = S + i * kBlock;
    Vec s[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      s[j] = fma(splat(w0[i]), u0[j], load(row + j * kLanes));
      s[j] = fma(splat(w1[i]), u1[j], s[j]);
      if (kRescale) s[j] = rescaled(s[j], rows.rescale[i]);
      store(row + j * kLanes, s[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      p0[j] = fma(splat(k0[i]), s[j], p0[j]);
      if (kRead0) r0[j] = fma(splat(q0[i]), s[j], r0[j]);
      p1[j] = fma(splat(k1[i]), s[j], p1[j]);
      if (kRead1) r1[j] = fma(splat(q1[i]), s[j], r1[j]);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    p[j] += p0[j];
    p[kVecs + j] += p1[j];
    r[j] += r0[j];
    r[kVecs + j] += r1[j];
  }
}

// Additive updates need no reads before they write: both steps go through in order, v the values of the pair.
template <bool kRead, bool kRescale>
__attribute__((noinline)) void additivePass(float* S, int64_t i0, int64_t i1, const PassRows& rows, const Vec* v,
                                            Vec* r) {
  Vec r0[kVecs], r1[kVecs], v0[kVecs], v1[kVecs];
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    r0[j] = r1[j] = zero();
    v0[j] = v[j];
    v1[j] = v[kVecs + j];
  }
  const float *k0 = rows.k0, *k1 = rows.k1, *q0 = rows.q0, *q1 = rows.q1;
  for (int64_t i = i0; i < i1; ++i) {
    float* row = S + i * kBlock;
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      Vec s = load(row + j * kLanes);
      if (kRescale) s = rescaled(s, rows.rescale[i]);
      s = fma(splat(k0[i]), v0[j], s);
      if (kRead) r0[j] = fma(splat(q0[i]), s, r0[j]);
      s = fma(splat(k1[i]), v1[j], s);
      if (kRead) r1[j] = fma(splat(q1[i]), s, r1[j]);
      store(row + j * kLanes, s);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    r[j] += r0[j];
    r[kVecs + j] += r1[j];
  }
}

// Sums over K run in stretches of this many rows: a longer chain of float32 additions loses digits (K = 512).
constexpr int64_t kSumRows = 128;

template <class F>
RANKONE_INLINE void inStretches(int64_t K, F&& f) {
  for (int64_t i = 0; i < K; i += kSumRows) f(i, K - i < kSumRows ? K : i + kSumRows);
}

// Applies what is pending and unfolds the decay: afterwards the block holds the state itself. A lane of overflow
// becomes NaN where it is not finite.
__attribute__((noinline)) static void settleBlock(float* S, int64_t K, const float* w0, const float* w1, const Vec* u,
                                                  const float* decay, Vec& overflow) {
  for (int64_t i = 0; i < K; ++i)
    for (int j = 0; j < kVecs; ++j) {
      float* at = S + i * kBlock + j * kLanes;
      Vec s = load(at);
      if (u) s = fma(splat(w1[i]), u[kVecs + j], fma(splat(w0[i]), u[j], s));
      s *= decay[i];
      store(at, s);
      overflow = fma(zero(), s, overflow);
    }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
