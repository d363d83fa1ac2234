// Small products of bf16 pairs with float32 sums, for the chunks of recurrence_bf16.inl. A pair is two neighbours along
// the summed dimension, the earlier one in the low half of 32 bits.
#include "kernels/recurrence_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

using Pair32 = uint32_t;

RANKONE_INLINE Vec multiplyAdd(Vec pairsA, Vec pairsB, Vec c) { return dotPairs(pairsA, pairsB, c); }
RANKONE_INLINE Vec loadPairs(const Pair32* p) { return (Vec)_mm512_loadu_si512(p); }
RANKONE_INLINE void storePairs(Pair32* p, Vec x) { _mm512_storeu_si512(p, (__m512i)x); }
RANKONE_INLINE Vec splatPair(const Pair32* p) { return (Vec)_mm512_set1_epi32(static_cast<int>(*p)); }

// 32 floats that follow each other, as 16 pairs.
RANKONE_INLINE Vec pairsAlong(Vec first, Vec second) { return (Vec)_mm512_cvtne2ps_pbh(second, first); }
// Lane i: (low[i], high[i]).
RANKONE_INLINE Vec pairsAcross(Vec low, Vec high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Vec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
// Of two rows of bf16, 32 elements each, the pairs (a[i], b[i]).
RANKONE_INLINE void pairsOfRows(Vec a, Vec b, Vec& first, Vec& second) {
  const UVec x = (UVec)a, y = (UVec)b;
  const UVec even = (x & 0xffffu) | (y << 16), odd = (x >> 16) | (y & 0xffff0000u);
  first = (Vec)__builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  second = (Vec)__builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// A(m, x) = a[m * rowStride + x * stepStride] for x < pairs.
struct PairScalars {
  const Pair32* a;
  int64_t rowStride, stepStride, pairs;
};

enum class Into { Set, Add, SubtractFrom };

// C = A B, C + A B or C - A B on kRows rows and kAcross vectors. Out of line: inlined, the accumulators spill.
template <int kRows, int kAcross, Into kInto>
__attribute__((noinline)) void pairTile(const PairScalars& A, const Pair32* B, int64_t ldb, float* C, int64_t ldc) {
  Vec c[kRows][kAcross];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < kAcross; ++j) c[m][j] = kInto == Into::Add ? load(C + m * ldc + j * kLanes) : zero();
  const Pair32* a = A.a;
  const int64_t rowStride = A.rowStride, stepStride = A.stepStride;
  for (int64_t x = A.pairs; x > 0; --x, B += ldb, a += stepStride) {
    Vec b[kAcross];
#pragma GCC unroll 2
    for (int j = 0; j < kAcross; ++j) b[j] = loadPairs(B + j * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const Vec s = splatPair(a + m * rowStride);
#pragma GCC unroll 2
      for (int j = 0; j < kAcross; ++j) c[m][j] = multiplyAdd(s, b[j], c[m][j]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < kAcross; ++j) {
      float* to = C + m * ldc + j * kLanes;
      store(to, kInto == Into::SubtractFrom ? load(to) - c[m][j] : c[m][j]);
    }
}

constexpr int kPairRows = 8;

// S <- by (S + A B) on kPairRows rows of a state block, and its copy in pairs of rows.
template <bool kDecay>
__attribute__((noinline)) void updateTile(const PairScalars& A, const Pair32* B, const float* by, float* S,
                                          Pair32* copy) {
  static_assert(kVecs == 2);
  Vec c[kPairRows][kVecs];
#pragma GCC unroll 8
  for (int m = 0; m < kPairRows; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) c[m][j] = load(S + m * kBlock + j * kLanes);
  const Pair32* a = A.a;
  const int64_t stepStride = A.stepStride;
  for (int64_t x = A.pairs; x > 0; --x, B += kBlock, a += stepStride) {
    Vec b[kVecs];
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) b[j] = loadPairs(B + j * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < kPairRows; ++m) {
      const Vec s = splatPair(a + m);
#pragma GCC unroll 2
      for (int j = 0; j < kVecs; ++j) c[m][j] = multiplyAdd(s, b[j], c[m][j]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kPairRows; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) {
      if (kDecay) c[m][j] = c[m][j] * splat(by[m]);
      store(S + m * kBlock + j * kLanes, c[m][j]);
    }
#pragma GCC unroll 4
  for (int m = 0; m < kPairRows; m += 2)
#pragma GCC unroll 2
    for (int j = 0; j < kVecs; ++j) storePairs(copy + m / 2 * kBlock + j * kLanes, pairsAcross(c[m][j], c[m + 1][j]));
}

// X <- (I + strict-tril(L))^-1 X, 16 rows of one vector, in registers.
__attribute__((noinline)) inline void solveTile(const float* L, int64_t ldl, float* X, int64_t ldx) {
  Vec x[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = load(X + i * ldx);
#pragma GCC unroll 16
  for (int i = 0; i < 15; ++i)
#pragma GCC unroll 16
    for (int k = 1; k < 16; ++k)
      if (k > i) x[k] = fnma(splat(L[k * ldl + i]), x[i], x[k]);
#pragma GCC unroll 16
  for (int i = 1; i < 16; ++i) store(X + i * ldx, x[i]);
}

// to[p][r] = from[r][p]: rows of pairs become columns. rows and columns are multiples of kLanes.
inline void transposePairs(const Pair32* from, int64_t ldFrom, int64_t rows, int64_t columns, Pair32* to,
                           int64_t ldTo) {
  for (int64_t r = 0; r < rows; r += kLanes)
    for (int64_t p = 0; p < columns; p += kLanes) {
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int x = 0; x < kLanes; ++x) square[x] = loadPairs(from + (r + x) * ldFrom + p);
      transpose(square);
#pragma GCC unroll 16
      for (int x = 0; x < kLanes; ++x) storePairs(to + (p + x) * ldTo + r, square[x]);
    }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
