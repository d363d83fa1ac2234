// The sweeps of the backward's reverse scan over column blocks of the folded gradient D, [K][kBlock] each: two steps'
// rank-one writes and the next two steps' reads, fused into one load and one store of each row.
namespace rankone {
namespace RANKONE_ISA_NS {

struct ReverseRows {
  const float *q0, *q1, *k0, *k1;  // queries and keys of the pending writes
  const float *r0, *r1;            // rows to read
  const float *unfold, *gate;      // per row, of the last pass
  const float* fetch;              // memory to bring closer, one cache line a row
  int64_t fetchStep;
};

// D += q0 dO0^T + q1 dO1^T + k0 dp0^T + k1 dp1^T, then d += D^T r, or without kRead D *= unfold, gate. Rows [i0, i1) of
// kBlocks blocks `stride` apart. w holds dO0, dO1, dp0, dp1.
template <int kBlocks, bool kQ0, bool kQ1, bool kKeys, bool kRead>
__attribute__((noinline)) void reversePass(float* D, int64_t stride, int64_t i0, int64_t i1, const ReverseRows& rows,
                                           const Vec* w, Vec* d) {
  constexpr int kN = kBlocks * kVecs;
  Vec x0[kN], x1[kN], y0[kN], y1[kN], d0[kN], d1[kN];
#pragma GCC unroll 8
  for (int j = 0; j < kN; ++j) {
    if (kQ0) x0[j] = w[j];
    if (kQ1) x1[j] = w[kN + j];
    if (kKeys) y0[j] = w[2 * kN + j];
    if (kKeys) y1[j] = w[3 * kN + j];
    d0[j] = d1[j] = zero();
  }
  const float *q0 = rows.q0, *q1 = rows.q1, *k0 = rows.k0, *k1 = rows.k1, *r0 = rows.r0, *r1 = rows.r1;
  const float* fetch = rows.fetch + i0 * rows.fetchStep;
  for (int64_t i = i0; i < i1; ++i, fetch += rows.fetchStep) {
    __builtin_prefetch(fetch, 0, 2);
    float* row = D + i * kBlock;
    const auto at = [&](int j) __attribute__((always_inline)) {
      return row + (j / kVecs) * stride + j % kVecs * kLanes;
    };
    Vec s[kN];
#pragma GCC unroll 8
    for (int j = 0; j < kN; ++j) s[j] = load(at(j));
    const auto write = [&](const float* key, const Vec* by) __attribute__((always_inline)) {
      const Vec x = splat(key[i]);
#pragma GCC unroll 8
      for (int j = 0; j < kN; ++j) s[j] = fma(x, by[j], s[j]);
    };
    if (kQ0) write(q0, x0);
    if (kQ1) write(q1, x1);
    if (kKeys) write(k0, y0);
    if (kKeys) write(k1, y1);
    if (!kRead) {
#pragma GCC unroll 8
      for (int j = 0; j < kN; ++j) s[j] = rescaled(s[j] * rows.unfold[i], rows.gate[i]);
    }
    if (kQ0 || kQ1 || kKeys) {
#pragma GCC unroll 8
      for (int j = 0; j < kN; ++j) store(at(j), s[j]);
    }
    if (kRead) {
      const Vec a = splat(r0[i]), b = splat(r1[i]);
#pragma GCC unroll 8
      for (int j = 0; j < kN; ++j) {
        d0[j] = fma(a, s[j], d0[j]);
        d1[j] = fma(b, s[j], d1[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kN && kRead; ++j) {
    d[j] += d0[j];
    d[kN + j] += d1[j];
  }
}

// A sweep of one shape, chosen by which of the pending steps are the last of their tokens.
template <int kBlocks, bool kKeys>
struct ReversePasses {
  using Pass = void (*)(float*, int64_t, int64_t, int64_t, const ReverseRows&, const Vec*, Vec*);
  static constexpr Pass kFirst = reversePass<kBlocks, false, false, false, true>;
  static constexpr Pass kLast = reversePass<kBlocks, true, true, kKeys, false>;
  static Pass middle(bool q0, bool q1) {
    static constexpr Pass kPasses[] = {
        reversePass<kBlocks, false, false, kKeys, true>, reversePass<kBlocks, false, true, kKeys, true>,
        reversePass<kBlocks, true, false, kKeys, true>, reversePass<kBlocks, true, true, kKeys, true>};
    return kPasses[2 * q0 + q1];
  }
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
