// The same tile in float32: operands are not rounded, and every sum is a chain of fused multiply-adds over ascending k.
#pragma once
#include "matmul_tile.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// TY x TX threads; a thread has every TY-th row and every TX-th column.
template <int BM_, int BN_, int BK_, int TY, int TX>
struct FmaTile {
  using Element = F32Element;
  static constexpr int BM = BM_, BN = BN_, BK = BK_, THREADS = TY * TX;
  static constexpr int PIECES = BK / 4;
  static constexpr int ROWS = BM / TY, COLUMNS = BN / TX;
  static constexpr int PAIRS = 0;  // columns are not neighbours

  float acc[ROWS][COLUMNS];

  static SIMT_DEV int row(int i) { return static_cast<int>(threadIdx.x) / TX + i * TY; }
  static SIMT_DEV int column(int j) { return static_cast<int>(threadIdx.x) % TX + j * TX; }
  SIMT_DEV float& at(int i, int j) { return acc[i][j]; }

  static SIMT_DEV void sync() { simt::syncthreads(); }
  SIMT_DEV void clear() {
    SIMT_UNROLL for (int i = 0; i < ROWS; ++i) SIMT_UNROLL for (int j = 0; j < COLUMNS; ++j) at(i, j) = 0;
  }

  SIMT_DEV void multiply(const uint8_t* x, const uint8_t* w, int columns) {
    SIMT_NOUNROLL for (int piece = 0; piece < PIECES; ++piece) {
      float a[ROWS][4];
      SIMT_UNROLL for (int i = 0; i < ROWS; ++i)
          simt::ld4(a[i], reinterpret_cast<const float*>(x + pieceAt<PIECES>(row(i), piece)));
      SIMT_UNROLL for (int j = 0; j < COLUMNS; ++j) {
        if (column(j) >= columns) continue;
        float b[4];
        simt::ld4(b, reinterpret_cast<const float*>(w + pieceAt<PIECES>(column(j), piece)));
        SIMT_UNROLL for (int i = 0; i < ROWS; ++i) SIMT_UNROLL for (int e = 0; e < 4; ++e) acc[i][j] =
            fmaf(a[i][e], b[e], acc[i][j]);
      }
    }
  }

  static constexpr int AHEAD = 1;
  struct Ranks {};
  template <class Load>
  SIMT_DEV static void loadRanks(Ranks&, const Load&) {}
  // As MmaTile's, of the first `count` of the 16 ranks in multiples of 4.
  template <class Load, class U, class V>
  SIMT_DEV void addRanks(const Ranks&, int count, const Load& load, const U& u, const V& v, uint32_t,
                         const bool (&has)[ROWS]) {
    SIMT_NOUNROLL for (int first = 0; first < count; first += 4) {
      float b[COLUMNS][4];
      SIMT_UNROLL for (int j = 0; j < COLUMNS; ++j) {
        uint32_t word[4];
        load(column(j), first, word);
        v(word, b[j]);
      }
      SIMT_UNROLL for (int i = 0; i < ROWS; ++i) {
        if (!has[i]) continue;
        float a[4];
        u(i, first, a);
        SIMT_UNROLL for (int e = 0; e < 4; ++e) if (first + e < count) SIMT_UNROLL for (int j = 0; j < COLUMNS; ++j)
            acc[i][j] = fmaf(a[e], b[j][e], acc[i][j]);
      }
    }
  }
};

}  // namespace rankone::cuda
