// The micro kernel of matmul: a block of MR x NV vectors of y stays in registers while K runs. Part of matmul.inl.
#include "kernels/matmul_pack.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// Registers decide: MR * NV accumulators, NV columns of b, one broadcast of a.
#if RANKONE_LEVEL == 2
constexpr int kTileRows = 12;
#elif defined(__aarch64__)
constexpr int kTileRows = 8;
#elif RANKONE_LEVEL == 1
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVecs = 2, kPanel = kTileVecs * kLanes;
constexpr int64_t kGroup = 8;  // units between looks at what is to be prefetched

// Where a tile's sums go: to y, to what stands in y already, with a bias.
struct TileOut {
  float* y;
  int64_t ld;
  const float* bias;  // of the first column; null: none
  int columns;        // how many of the panel's columns exist
  bool add;           // a later block of K adds to what stands in y

  // y is read only at the end, a whole pass over K after this; in L1 its rows would often share a set
  RANKONE_INLINE void begin(int rows, int width) const {
    if (!add) return;
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < width; j += 16) __builtin_prefetch(y + i * ld + j, 1, 2);
  }
  template <int MR, int NV>
  RANKONE_INLINE void put(const Vec (&acc)[MR][NV]) const {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const int width = columns - j * kLanes;
      if (width <= 0) break;
      const bool whole = width >= kLanes;
      const Vec b = !bias ? zero() : whole ? load(bias + j * kLanes) : loadPart(bias + j * kLanes, width);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        float* to = y + i * ld + j * kLanes;
        if (whole)
          store(to, add ? load(to) + acc[i][j] : acc[i][j] + b);
        else
          storePart(to, add ? loadPart(to, width) + acc[i][j] : acc[i][j] + b, width);
      }
    }
  }
};

RANKONE_INLINE Vec broadcast(const float* p) {
#if RANKONE_LEVEL == 2
  return _mm512_set1_ps(*p);
#elif RANKONE_LEVEL == 1
  return _mm256_broadcast_ss(p);
#else
  return splat(*p);
#endif
}

// What a tile does with a unit of each operand; an Out of other sums than floats has its own.
template <class Out>
struct TileArithmetic {
  static RANKONE_INLINE Vec multiplyAdd(Vec a, Vec b, Vec c) { return RANKONE_ISA_NS::multiplyAdd(a, b, c); }
};

// a: unit k of row i at a[k * kTileRows + i]; b: vectors of columns at b[k * ldb].
template <int MR, int NV, class Out>
__attribute__((noinline)) void tile(int64_t units, const float* a, const float* b, int64_t ldb, const Out& out,
                                    Prefetch& prefetch) {
  Vec acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = zero();
  out.begin(MR, NV * kLanes);
  Prefetch next = prefetch;
  while (units > 0) {
    fetch(next);
    const float* end = a + std::min(units, kGroup) * kTileRows;
    do {
      Vec column[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) column[j] = load(b + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const Vec row = broadcast(a + i);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = TileArithmetic<Out>::multiplyAdd(row, column[j], acc[i][j]);
      }
      a += kTileRows;
      b += ldb;
    } while (a < end);
    units -= kGroup;
  }
  prefetch = next;
  out.put(acc);
}

template <class Out>
using TileFunction = void (*)(int64_t, const float*, const float*, int64_t, const Out&, Prefetch&);

template <int MR, class Out>
TileFunction<Out> pickTile(int rows, int vecs) {
  if constexpr (MR > 1)
    if (rows < MR) return pickTile<MR - 1, Out>(rows, vecs);
  return vecs == 1 ? tile<MR, 1, Out> : tile<MR, kTileVecs, Out>;
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
