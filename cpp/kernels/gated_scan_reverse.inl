// The passes of the gated scans' backward over the columns of a state and of its gradient, which lie transposed: see
// gated_scan_backward.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// Sums over the columns, by token: [kScanSums][ld].
enum ScanSum { kSumQ, kSumK, kSumG, kSumA, kSumB, kScanSums };

// One token of some columns in the transposed layout, [kScanBlock][ld].
struct ReverseStep {
  int64_t ld, columns;
  const float *q, *k, *b, *v, *p, *dO;  // [ld]; by column
  // Of the token whose decay dS still lacks: this one with RWKV-6, else the one after it.
  const float *a, *gain;
  const int32_t* keep;
  const float* dp;  // by column
  const float* S;   // the state between the two, or before this one
  float *dS, *sums, *decaySums;
  float *dv, *dpSums;  // [columns][kLanes]
};

// S <- diag(e^g) S, where S is one vector of a column.
RANKONE_INLINE Vec reverseDecayed(Vec s, Vec gain, IVec keep) { return fma(s, gain, (Vec)((IVec)s & keep)); }
RANKONE_INLINE IVec keptRows(const int32_t* keep) { return (IVec)load(reinterpret_cast<const float*>(keep)); }

// The rows of [columns][ld] whose gate is a reset become +0, whatever they held, or what a token writes there.
__attribute__((noinline)) void resetColumns(float* S, int64_t ld, int64_t columns, const float* g,
                                            const float* key = nullptr, const float* value = nullptr) {
  for (int64_t i = 0; i < ld; i += kLanes) {
    const IVec resets = load(g + i) < splat(kScanReset);
    for (int64_t c = 0; c < columns; ++c)
      store(S + c * ld + i, select(resets, key ? load(key + i) * value[c] : zero(), load(S + c * ld + i)));
  }
}

// The state after a token, from that before it.
template <bool kLowRank>
__attribute__((noinline)) void advanceColumns(const ReverseStep& x, const float* before, float* after) {
  const int64_t ld = x.ld, columns = x.columns;
  const float *v = x.v, *p = x.p;
  for (int64_t i = 0; i < ld; i += kLanes) {
    const Vec gain = load(x.gain + i), k = load(x.k + i), b = kLowRank ? load(x.b + i) : zero();
    const IVec keep = keptRows(x.keep + i);
    const float* from = before + i;
    float* to = after + i;
    for (int64_t c = 0; c < columns; ++c, from += ld, to += ld) {
      Vec s = reverseDecayed(scanHeld(load(from)), gain, keep);
      if (kLowRank) s = fma(b, splat(p[c]), s);
      store(to, fma(k, splat(v[c]), s));
    }
  }
}

// Vectors of i that share a column's values.
#if RANKONE_LEVEL == 2 || defined(__aarch64__)
constexpr int kReverseVecs = 2;
#else
constexpr int kReverseVecs = 1;
#endif

// kDecay: what the token after this one does to dS and sums of it; kOwn: what this one does.
template <int kVecs, bool kDecay, bool kOwn>
RANKONE_INLINE void lowRankRows(const ReverseStep& x, int64_t i) {
  const int64_t ld = x.ld;
  Vec q[kVecs], k[kVecs], b[kVecs], a[kVecs], gain[kVecs], sum[kScanSums][kVecs];
  IVec keep[kVecs];
#pragma GCC unroll 2
  for (int e = 0; e < kVecs; ++e) {
    const int64_t at = i + e * kLanes;
    if (kDecay) {
      a[e] = load(x.a + at);
      gain[e] = load(x.gain + at);
      keep[e] = keptRows(x.keep + at);
      sum[kSumA][e] = load(x.decaySums + kSumA * ld + at);
      sum[kSumG][e] = load(x.decaySums + kSumG * ld + at);
    }
    if (kOwn) {
      q[e] = load(x.q + at);
      k[e] = load(x.k + at);
      b[e] = load(x.b + at);
      for (int s : {kSumQ, kSumK, kSumB}) sum[s][e] = load(x.sums + s * ld + at);
    }
  }
  const int64_t columns = x.columns;
  const float *S = x.S + i, *p = x.p, *v = x.v, *dO = x.dO, *dp = x.dp;
  float *dS = x.dS + i, *dvSums = x.dv, *dpSums = x.dpSums;
  for (int64_t c = 0; c < columns; ++c, S += ld, dS += ld, dvSums += kLanes, dpSums += kLanes) {
    Vec dv = kOwn && i ? load(dvSums) : zero(), dpOwn = kOwn && i ? load(dpSums) : zero();
    const Vec decayBy = kDecay ? scanHeld(splat(dp[c])) : zero(), ownBy = kOwn ? scanHeld(splat(dO[c])) : zero();
#pragma GCC unroll 2
    for (int e = 0; e < kVecs; ++e) {
      Vec d = scanHeld(load(dS + e * kLanes));
      const Vec s = scanHeld(load(S + e * kLanes));
      if (kDecay) {
        sum[kSumG][e] = fma(d, s, sum[kSumG][e]);
        sum[kSumA][e] = fma(s, decayBy, sum[kSumA][e]);
        d = fma(a[e], decayBy, reverseDecayed(d, gain[e], keep[e]));
      }
      if (kOwn) {
        d = fma(q[e], ownBy, d);
        sum[kSumQ][e] = fma(s, ownBy, sum[kSumQ][e]);
        sum[kSumK][e] = fma(d, splat(v[c]), sum[kSumK][e]);
        sum[kSumB][e] = fma(d, splat(p[c]), sum[kSumB][e]);
        dv = fma(d, k[e], dv);
        dpOwn = fma(d, b[e], dpOwn);
      }
      store(dS + e * kLanes, d);
    }
    if (kOwn) {
      store(dvSums, dv);
      store(dpSums, dpOwn);
    }
  }
#pragma GCC unroll 2
  for (int e = 0; e < kVecs; ++e) {
    const int64_t at = i + e * kLanes;
    if (kDecay) {
      store(x.decaySums + kSumA * ld + at, sum[kSumA][e]);
      store(x.decaySums + kSumG * ld + at, sum[kSumG][e]);
    }
    if (kOwn)
      for (int s : {kSumQ, kSumK, kSumB}) store(x.sums + s * ld + at, sum[s][e]);
  }
}

template <int kVecs>
RANKONE_INLINE void bonusRows(const ReverseStep& x, int64_t i) {
  constexpr int kSums = 3;
  static_assert(kSumQ < kSums && kSumK < kSums && kSumG < kSums);
  const int64_t ld = x.ld;
  Vec q[kVecs], k[kVecs], gain[kVecs], sum[kSums][kVecs];
  IVec keep[kVecs];
#pragma GCC unroll 2
  for (int e = 0; e < kVecs; ++e) {
    const int64_t at = i + e * kLanes;
    q[e] = load(x.q + at);
    k[e] = load(x.k + at);
    gain[e] = load(x.gain + at);
    keep[e] = keptRows(x.keep + at);
    for (int s = 0; s < kSums; ++s) sum[s][e] = load(x.sums + s * ld + at);
  }
  const int64_t columns = x.columns;
  const float *S = x.S + i, *v = x.v, *dO = x.dO;
  float *dS = x.dS + i, *dvSums = x.dv;
  for (int64_t c = 0; c < columns; ++c, S += ld, dS += ld, dvSums += kLanes) {
    Vec dv = i ? load(dvSums) : zero();
    const Vec by = scanHeld(splat(v[c])), y = scanHeld(splat(dO[c]));
#pragma GCC unroll 2
    for (int e = 0; e < kVecs; ++e) {
      const Vec d = scanHeld(load(dS + e * kLanes)), s = scanHeld(load(S + e * kLanes));
      sum[kSumK][e] = fma(d, by, sum[kSumK][e]);
      sum[kSumG][e] = fma(d, s, sum[kSumG][e]);
      sum[kSumQ][e] = fma(s, y, sum[kSumQ][e]);
      dv = fma(d, k[e], dv);
      store(dS + e * kLanes, fma(q[e], y, reverseDecayed(d, gain[e], keep[e])));
    }
    store(dvSums, dv);
  }
#pragma GCC unroll 2
  for (int e = 0; e < kVecs; ++e)
    for (int s = 0; s < kSums; ++s) store(x.sums + s * ld + i + e * kLanes, sum[s][e]);
}

template <class F>
RANKONE_INLINE void overReverseVecs(int64_t ld, F&& f) {
  int64_t i = 0;
  for (; i + kReverseVecs * kLanes <= ld; i += kReverseVecs * kLanes) f(std::integral_constant<int, kReverseVecs>(), i);
  for (; i < ld; i += kLanes) f(std::integral_constant<int, 1>(), i);
}
template <bool kDecay, bool kOwn>
__attribute__((noinline)) void lowRankPass(const ReverseStep& x) {
  overReverseVecs(
      x.ld, [&](auto vecs, int64_t i)
                __attribute__((always_inline)) { lowRankRows<decltype(vecs)::value, kDecay, kOwn>(x, i); });
}
__attribute__((noinline)) void bonusPass(const ReverseStep& x) {
  overReverseVecs(
      x.ld, [&](auto vecs, int64_t i) __attribute__((always_inline)) { bonusRows<decltype(vecs)::value>(x, i); });
}

// out[c] = the sum over the lanes of row c, for kScanBlock rows.
__attribute__((noinline)) void columnSums(const float* rows, float* out) {
#if RANKONE_LEVEL == 2
  // Sums of two vectors into halves of one, of four into quarters and so on, in such pairs that they end up in order.
  const auto pair = [&](int c) __attribute__((always_inline)) {
    const Vec x = load(rows + c * kLanes), y = load(rows + (c + 4) * kLanes);
    return __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           __builtin_shufflevector(x, y, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  };
  const auto four = [&](int c) __attribute__((always_inline)) {
    const Vec x = pair(c), y = pair(c + 8);
    return __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  };
  const auto eight = [&](int c) __attribute__((always_inline)) {
    const Vec x = four(c), y = four(c + 1);
    return __builtin_shufflevector(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           __builtin_shufflevector(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  };
  for (int c = 0; c < kScanBlock; c += kLanes, rows += kLanes * kLanes) {
    const Vec x = eight(0), y = eight(2);
    store(out + c, __builtin_shufflevector(x, y, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
                       __builtin_shufflevector(x, y, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31));
  }
#else
  for (int c = 0; c < kScanBlock; c += 4, rows += 4 * kLanes)
    sums(load(rows), load(rows + kLanes), load(rows + 2 * kLanes), load(rows + 3 * kLanes), out + c);
#endif
}

// kScanBlock columns of [ld][stride] to [kScanBlock][ld].
__attribute__((noinline)) void transposeBlock(const float* from, int64_t stride, int64_t ld, float* to) {
  for (int64_t i = 0; i < ld; i += kLanes)
    for (int64_t c = 0; c < kScanBlock; c += kLanes) {
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) square[r] = load(from + (i + r) * stride + c);
      transpose(square);
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) store(to + (c + r) * ld + i, square[r]);
    }
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
