// The forward's sweeps over one column block of the state, [K][kBlock]: rank-one writes and reads of a few steps fused
// into one load and one store of each row. Kept out of line: inlined into their callers the accumulators spill.
//
// Limit: two multiply-adds a cycle; a row of a delta pass holds twelve vectors of them to two loads, two stores and six
// broadcasts. What surrounds the rows is paid once per pass, so that it is kept to a few dozen instructions.
#include "kernels/recurrence_passes.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// Steps that share a pass. A delta step's read waits for the writes before it; two are what the registers hold.
// Additive steps need no read before they write.
constexpr int kDeltaSteps = 2;
#if RANKONE_LEVEL == 2 || defined(__aarch64__)
constexpr int kAdditiveSteps = 4;  // 32 registers
#else
constexpr int kAdditiveSteps = 2;
#endif

// gcc's generic tuning moves general registers into vector registers where it runs out of them, and back inside of the
// loop: there the moves wait behind the multiply-adds.
#if defined(__x86_64__) && !defined(__clang__)
#define RANKONE_PASS __attribute__((noinline, target("tune=haswell")))
#else
#define RANKONE_PASS __attribute__((noinline))
#endif

// Consecutive steps that share a pass, as every column block sees them.
struct PassSteps {
  int first, count;
  int reads;  // bit e: step e is its token's last, and outputs are wanted
  bool rescale;
  int64_t token;                     // of the first step, counted in the pack
  const float *k, *w, *q;            // [count][ld] keys for reads and for writes; queries of the steps that are read
  const float *pending0, *pending1;  // keys of the pass before
  const float* v;                    // the first step's values
  const float* rescaleBy;            // per row
  float q0k0, q1k0, q1k1, k1k0;      // what the steps owe each other
};

// What a pass needs of its column block and pack.
struct PassBlock {
  float* S;
  Vec *u, *overflow;  // [kDeltaSteps][kVecs] pending writes; a lane becomes NaN where one is not finite
  int64_t K, ld, vStride, oStride, rescaleStride, residualStride;
  const float *decay, *inverse;  // per step: e^c of its token (times the output's scale), e^-c
  const float *beta, *written;   // per step: of what the state holds, and of v
  const float* v;                // [count], vStride apart
  float *o, *residual;           // [reads], oStride apart; [count], or null
  const char* const* ahead;      // aheadPieces for every kChunkRows rows, of aheadLines cache lines
  int64_t aheadPieces, aheadLines;
};

constexpr int64_t kChunkRows = 16;

// rows(i0, i1, sums) over all rows, in stretches of kSumRows: the first sums into acc itself, the others into sums of
// their own. Rows ahead are fetched in between.
template <int kSums, class F>
RANKONE_INLINE void sumStretches(const PassBlock& b, Vec (&acc)[kSums], F&& rows) {
  const int64_t first = b.K < kSumRows ? b.K : kSumRows;
  const char* const* ahead = b.ahead;
  for (int64_t i = 0; i < first; i += kChunkRows) {
    for (int64_t x = b.aheadPieces; x > 0; --x) {
      const char* p = *ahead++;
      for (int64_t line = b.aheadLines; line > 0; --line, p += 64) __builtin_prefetch(p, 0, 3);
    }
    rows(i, first - i < kChunkRows ? first : i + kChunkRows, acc);
  }
  for (int64_t i = kSumRows; i < b.K; i += kSumRows) {
    Vec more[kSums] = {};
    rows(i, b.K - i < kSumRows ? b.K : i + kSumRows, more);
#pragma GCC unroll 16
    for (int j = 0; j < kSums; ++j) acc[j] += more[j];
  }
}

// Delta steps. The pending writes are applied, then what is read is k^T S for every step, q^T S where kReads says so.
template <int kSteps, int kReads, bool kRescale>
RANKONE_PASS void deltaPass(const PassSteps& x, const PassBlock& b) {
  constexpr bool read0 = kReads & 1, read1 = kReads & 2, two = kSteps == 2;
  Vec u0[kVecs], u1[kVecs];
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    u0[j] = b.u[j];
    u1[j] = b.u[kVecs + j];
  }
  const float *w0 = x.pending0, *w1 = x.pending1, *k0 = x.k, *k1 = k0 + b.ld, *q0 = x.q, *q1 = read0 ? q0 + b.ld : q0;
  Vec acc[4 * kVecs] = {};  // k0^T S, k1^T S, q0^T S, q1^T S
  sumStretches(
      b, acc, [&](int64_t i0, int64_t i1, Vec(&to)[4 * kVecs]) __attribute__((always_inline)) {
        float* row = b.S + i0 * kBlock;
        for (int64_t i = i0; i < i1; ++i, row += kBlock) {
          Vec s[kVecs];
          const Vec a0 = splat(w0[i]), a1 = splat(w1[i]);
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j) s[j] = fma(a1, u1[j], fma(a0, u0[j], load(row + j * kLanes)));
          if (kRescale) {
            const float by = x.rescaleBy[i * b.rescaleStride];
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; ++j) s[j] = rescaled(s[j], by);
          }
          const Vec y0 = splat(k0[i]), y1 = splat(two ? k1[i] : 0), z0 = splat(read0 ? q0[i] : 0),
                    z1 = splat(read1 ? q1[i] : 0);
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j) store(row + j * kLanes, s[j]);
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j) {
            to[j] = fma(y0, s[j], to[j]);
            if (two) to[kVecs + j] = fma(y1, s[j], to[kVecs + j]);
            if (read0) to[2 * kVecs + j] = fma(z0, s[j], to[2 * kVecs + j]);
            if (read1) to[3 * kVecs + j] = fma(z1, s[j], to[3 * kVecs + j]);
          }
        }
      });
  const Vec b0 = splat(b.beta[0]), i0 = splat(b.written[0] * b.inverse[0]), d0 = splat(b.decay[0]);
  const Vec b1 = splat(two ? b.beta[1] : 0), i1 = splat(two ? b.written[1] * b.inverse[1] : 0),
            d1 = splat(two ? b.decay[1] : 0);
  const float *v0 = b.v, *v1 = v0 + b.vStride;
  float *o0 = b.o, *o1 = read0 ? o0 + b.oStride : o0;
  Vec check = *b.overflow;
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    const int64_t at = j * kLanes;
    const Vec x0 = load(v0 + at), p0 = acc[j];
    u0[j] = fnma(b0, p0, x0 * i0);
    u1[j] = zero();
    if (read0) store(o0 + at, fma(splat(x.q0k0), u0[j], acc[2 * kVecs + j]) * d0);
    if (b.residual) store(b.residual + at, fnma(d0, p0, x0));
    if (two) {
      const Vec x1 = load(v1 + at), p1 = fma(splat(x.k1k0), u0[j], acc[kVecs + j]);
      u1[j] = fnma(b1, p1, x1 * i1);
      if (read1) store(o1 + at, fma(splat(x.q1k1), u1[j], fma(splat(x.q1k0), u0[j], acc[3 * kVecs + j])) * d1);
      if (b.residual) store(b.residual + b.residualStride + at, fnma(d1, p1, x1));
    }
    check = fma(zero(), u0[j] + u1[j], check);
    b.u[j] = u0[j];
    b.u[kVecs + j] = u1[j];
  }
  *b.overflow = check;
}

// Additive steps go through in order.
template <int kSteps, bool kRead, bool kRescale>
RANKONE_PASS void additivePass(const PassSteps& x, const PassBlock& b) {
  constexpr int kAcross = kSteps * kVecs;
  Vec v[kAcross], r[kAcross] = {}, check = *b.overflow;
#pragma GCC unroll 8
  for (int e = 0; e < kSteps; ++e) {
    const Vec by = splat(b.inverse[e]);
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) v[e * kVecs + j] = load(b.v + e * b.vStride + j * kLanes) * by;
  }
  const float *w = x.w, *q = x.q;
  const int64_t ld = b.ld;
  sumStretches(
      b, r, [&](int64_t i0, int64_t i1, Vec(&to)[kAcross]) __attribute__((always_inline)) {
        float* row = b.S + i0 * kBlock;
        for (int64_t i = i0; i < i1; ++i, row += kBlock) {
          Vec s[kVecs];
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j) s[j] = load(row + j * kLanes);
          if (kRescale) {
            const float by = x.rescaleBy[i * b.rescaleStride];
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; ++j) s[j] = rescaled(s[j], by);
          }
#pragma GCC unroll 8
          for (int e = 0; e < kSteps; ++e) {
            const Vec k = splat(w[e * ld + i]);
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; ++j) s[j] = fma(k, v[e * kVecs + j], s[j]);
            if (!kRead) continue;
            const Vec y = splat(q[e * ld + i]);
#pragma GCC unroll 4
            for (int j = 0; j < kVecs; ++j) to[e * kVecs + j] = fma(y, s[j], to[e * kVecs + j]);
          }
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j) store(row + j * kLanes, s[j]);
        }
      });
  Vec all = zero();
#pragma GCC unroll 8
  for (int e = 0; e < kSteps; ++e) {
    const Vec by = splat(b.decay[e]);
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      if (kRead) store(b.o + e * b.oStride + j * kLanes, r[e * kVecs + j] * by);
      all += kRead ? r[e * kVecs + j] + v[e * kVecs + j] : v[e * kVecs + j];
    }
  }
  *b.overflow = fma(zero(), all, check);
}

// The pass for a number of steps, which of them are read, and whether rows are rescaled first.
using Pass = void (*)(const PassSteps&, const PassBlock&);

inline Pass passOf(bool delta, int steps, int reads, bool rescale) {
  if (delta) {
    static constexpr Pass kPasses[2][4][2] = {
        {{deltaPass<1, 0, false>, deltaPass<1, 0, true>}, {deltaPass<1, 1, false>, deltaPass<1, 1, true>}},
        {{deltaPass<2, 0, false>, deltaPass<2, 0, true>},
         {deltaPass<2, 1, false>, deltaPass<2, 1, true>},
         {deltaPass<2, 2, false>, deltaPass<2, 2, true>},
         {deltaPass<2, 3, false>, deltaPass<2, 3, true>}}};
    return kPasses[steps - 1][reads][rescale];
  } else {
    static constexpr Pass kPasses[4][2][2] = {
      {{additivePass<1, false, false>, additivePass<1, false, true>},
       {additivePass<1, true, false>, additivePass<1, true, true>}},
      {{additivePass<2, false, false>, additivePass<2, false, true>},
       {additivePass<2, true, false>, additivePass<2, true, true>}},
#if RANKONE_LEVEL == 2 || defined(__aarch64__)
      {{additivePass<3, false, false>, additivePass<3, false, true>},
       {additivePass<3, true, false>, additivePass<3, true, true>}},
      {{additivePass<4, false, false>, additivePass<4, false, true>},
       {additivePass<4, true, false>, additivePass<4, true, true>}},
#endif
    };
    return kPasses[steps - 1][reads != 0][rescale];
  }
}

// Applies what is pending and unfolds the decay: afterwards the block holds the state itself. A lane of overflow
// becomes NaN where it is not finite.
inline __attribute__((noinline)) void settleBlock(float* S, int64_t K, const float* w0, const float* w1, const Vec* u,
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
