// Sweeps of the token form over a block of columns of a row-major state [K,V]: its sums stay in registers.
//
// Limits per vector of the state: the read sweep one load and a multiply-add for each of its sums, the write sweep one
// store. A block as wide as the registers allow has the state stream through in whole rows, or in long pieces of them.
#include "kernels/recurrence_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

#if RANKONE_LEVEL == 2 || defined(__aarch64__)
constexpr int kWide = 8, kMostAccumulators = 24;  // of 32 registers
#else
constexpr int kWide = 4, kMostAccumulators = 8;  // of 16
#endif
constexpr int64_t kStretchRows = 128;
constexpr int kMostSteps = 3, kMostSums = kMostSteps + 1;

// Multiplier of a row, as S <- S * gain + (S & keep): for slow decays gain = e^g - 1 and S is kept, else gain = e^g.
struct RowDecay {
  const float* gain;    // [K], or one value
  const int32_t* keep;  // -1 or 0
};

enum class Decay { None, Uniform, PerRow };

RANKONE_INLINE Vec decayed(Vec s, Vec gain, IVec keep) { return fma(s, gain, (Vec)((IVec)s & keep)); }

// Keeps a value in a register that is used more than once; gcc would rather load it again, and loads are scarce here.
RANKONE_INLINE Vec held(Vec x) {
#if RANKONE_LEVEL == 2
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#endif
  return x;
}

template <bool kPart>
RANKONE_INLINE Vec loadColumns(const float* p, int part) {
  return held(kPart ? loadPart(p, part) : load(p));
}
template <bool kPart>
RANKONE_INLINE void storeColumns(float* p, Vec x, int part) {
  kPart ? storePart(p, x, part) : store(p, x);
}

// sums[m] = S^T x[m] over kAcross vectors of columns; sums lie `ld` floats apart.
template <int kSums, int kAcross, bool kPart>
__attribute__((noinline)) void readColumns(const float* S, int64_t K, int64_t V, const float* const* x, float* sums,
                                           int64_t ld, int part) {
  if constexpr (kSums * kAcross > kMostAccumulators) {
    constexpr int kHalf = kAcross / 2;
    readColumns<kSums, kHalf, false>(S, K, V, x, sums, ld, 0);
    readColumns<kSums, kHalf, false>(S + kHalf * kLanes, K, V, x, sums + kHalf * kLanes, ld, 0);
  } else {
    // Rows that go side by side, with sums of their own: enough of them to hide the latency of the multiply-add.
    constexpr int kRows = kSums * kAcross * 2 > kMostAccumulators ? 1 : kSums * kAcross >= 4 ? 2 : 4;
    const float* rows[kSums];
#pragma GCC unroll 4
    for (int m = 0; m < kSums; ++m) rows[m] = x[m];
    // Sums run in stretches: a longer chain of float32 additions loses digits.
    for (int64_t i = 0; i < K;) {
      const int64_t end = K - i < kStretchRows ? K : i + kStretchRows;
      Vec t[kRows][kSums][kAcross];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int m = 0; m < kSums; ++m)
#pragma GCC unroll 8
          for (int j = 0; j < kAcross; ++j) t[r][m][j] = zero();
      const auto add = [&](int64_t row, int r) __attribute__((always_inline)) {
        Vec by[kSums];
#pragma GCC unroll 4
        for (int m = 0; m < kSums; ++m) by[m] = splat(rows[m][row]);
#pragma GCC unroll 8
        for (int j = 0; j < kAcross; ++j) {
          const Vec s = loadColumns<kPart>(S + row * V + j * kLanes, part);
#pragma GCC unroll 4
          for (int m = 0; m < kSums; ++m) t[r][m][j] = fma(by[m], s, t[r][m][j]);
        }
      };
      const bool first = i == 0;
      for (; i + kRows <= end; i += kRows)
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) add(i + r, r);
      for (; i < end; ++i) add(i, 0);
#pragma GCC unroll 4
      for (int m = 0; m < kSums; ++m)
#pragma GCC unroll 8
        for (int j = 0; j < kAcross; ++j) {
          float* to = sums + m * ld + j * kLanes;
          Vec s = t[0][m][j];
#pragma GCC unroll 4
          for (int r = 1; r < kRows; ++r) s = s + t[r][m][j];
          store(to, first ? s : load(to) + s);
        }
    }
  }
}

// S <- D(S) + sum of k[j] u[j]^T; with kRead also sums = S^T q of the new rows.
template <int kSteps, Decay kDecay, bool kRead, int kAcross, bool kPart>
__attribute__((noinline)) void writeColumns(float* S, int64_t K, int64_t V, const float* const* k, const float* u,
                                            int64_t ld, const RowDecay& decay, const float* q, float* sums, int part) {
  Vec add[kSteps][kAcross], t[kAcross], gain = zero();
  IVec keep{};
  const float* rows[kSteps];
#pragma GCC unroll 8
  for (int j = 0; j < kAcross; ++j) {
    t[j] = zero();
#pragma GCC unroll 4
    for (int m = 0; m < kSteps; ++m) add[m][j] = load(u + m * ld + j * kLanes);
  }
#pragma GCC unroll 4
  for (int m = 0; m < kSteps; ++m) rows[m] = k[m];
  if (kDecay == Decay::Uniform) {
    gain = splat(decay.gain[0]);
    keep = IVec{} + decay.keep[0];
  }
  const float* gains = decay.gain;
  const int32_t* keeps = decay.keep;
  for (int64_t i = 0; i < K; ++i) {
    Vec by[kSteps], query = zero();
#pragma GCC unroll 4
    for (int m = 0; m < kSteps; ++m) by[m] = splat(rows[m][i]);
    if (kDecay == Decay::PerRow) {
      gain = splat(gains[i]);
      keep = IVec{} + keeps[i];
    }
    if (kRead) query = splat(q[i]);
#pragma GCC unroll 8
    for (int j = 0; j < kAcross; ++j) {
      float* at = S + i * V + j * kLanes;
      Vec s = loadColumns<kPart>(at, part);
      if (kDecay != Decay::None) s = decayed(s, gain, keep);
#pragma GCC unroll 4
      for (int m = 0; m < kSteps; ++m) s = fma(by[m], add[m][j], s);
      storeColumns<kPart>(at, s, part);
      if (kRead) t[j] = fma(query, s, t[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kAcross && kRead; ++j) store(sums + j * kLanes, t[j]);
}

// f(first column, vectors across, whether the last of them is whole, its columns) for blocks that make up a row.
template <class F>
RANKONE_INLINE void overBlocks(int64_t V, F&& f) {
  int64_t c = 0;
  for (; c + kWide * kLanes <= V; c += kWide * kLanes) f(c, std::integral_constant<int, kWide>{}, std::false_type{}, 0);
  for (; c + kWide / 2 * kLanes <= V; c += kWide / 2 * kLanes)
    f(c, std::integral_constant<int, kWide / 2>{}, std::false_type{}, 0);
  for (; c + kLanes <= V; c += kLanes) f(c, std::integral_constant<int, 1>{}, std::false_type{}, 0);
  if (c < V) f(c, std::integral_constant<int, 1>{}, std::true_type{}, static_cast<int>(V - c));
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
