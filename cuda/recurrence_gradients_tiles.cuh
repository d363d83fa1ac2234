// What the gradient kernel computes with: tiles of 64 rows in shared memory, their products, and who holds which
// element of a product. Two arithmetics of one interface, for blocks of 256 threads:
//
//   Float32  FMA, 4 x 4 elements a thread
//   Bf16     mma.sync on bf16 operands, float32 accumulators, 16 x 32 elements a warp
#pragma once
#include <cstdint>

#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr int kTileRows = 64;
constexpr int kGradientThreads = 256;

SIMT_DEV float floatOf(float x) { return x; }
SIMT_DEV float floatOf(uint16_t x) { return simt::bf16_to_f32(x); }
SIMT_DEV void put(float* to, float x) { *to = x; }
SIMT_DEV void put(uint16_t* to, float x) { *to = simt::f32_to_bf16(x); }

struct Float32 {
  using T = float;
  static constexpr int kBlock = 32;        // columns of V at a time
  static constexpr int kStride = 36;       // of their rows in shared memory
  static constexpr int kSquare = 68;       // of rows of 64 columns
  static constexpr int kRows = 4;          // rows of a thread's elements
  static constexpr bool kSparing = false;  // of registers: two blocks a multiprocessor
  static constexpr int kSlots = 16;        // threads that share a row

  // Products of up to 64 of them: an approximation's own bias would add up.
  static SIMT_DEV float ex2(float x) { return exp2f(x); }
  static SIMT_DEV int row(int e) { return threadIdx.x / 16 + 16 * (e / 4); }
  static SIMT_DEV int column(int e) { return threadIdx.x % 16 + 16 * (e % 4); }
  static SIMT_DEV int rowIndex(int e) { return e / 4; }
  static SIMT_DEV int slot() { return threadIdx.x % 16; }

  // sums[i,j] += sum over k < depth of a(i,k) b(j,k). An operand lies in rows of its first index, or, transposed, of k.
  template <bool kTransposedA, bool kTransposedB>
  static SIMT_DEV void multiply(float (&sums)[16], const T* a, int aStride, const T* b, int bStride, int depth) {
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    SIMT_NOUNROLL for (int k = 0; k < depth; k += 4) {
      float x[4][4], y[4][4];
      SIMT_UNROLL for (int i = 0; i < 4; ++i) {
        load<kTransposedA>(x[i], a, aStride, ty + 16 * i, k);
        load<kTransposedB>(y[i], b, bStride, tx + 16 * i, k);
      }
      SIMT_UNROLL for (int i = 0; i < 4; ++i) SIMT_UNROLL for (int j = 0; j < 4; ++j)
          SIMT_UNROLL for (int e = 0; e < 4; ++e) sums[4 * i + j] = fmaf(x[i][e], y[j][e], sums[4 * i + j]);
    }
  }

 private:
  template <bool kTransposed>
  static SIMT_DEV void load(float (&to)[4], const T* from, int stride, int index, int k) {
    if constexpr (kTransposed) {
      SIMT_UNROLL for (int e = 0; e < 4; ++e) to[e] = from[(k + e) * stride + index];
    } else {
      simt::ld4(to, from + index * stride + k);
    }
  }
};

struct Bf16 {
  using T = uint16_t;
  static constexpr int kBlock = 64;
  static constexpr int kStride = 72;  // 8 rows of a matrix meet all banks
  static constexpr int kSquare = 72;
  static constexpr int kRows = 2;
  static constexpr bool kSparing = true;
  static constexpr int kSlots = 8;

  static SIMT_DEV float ex2(float x) { return simt::ex2(x); }
  static SIMT_DEV int lane() { return threadIdx.x & 31; }
  static SIMT_DEV int firstRow() { return threadIdx.x / 64 * 16; }
  static SIMT_DEV int firstColumn() { return threadIdx.x / 32 % 2 * 32; }
  static SIMT_DEV int row(int e) { return firstRow() + lane() / 4 + (e / 2 & 1) * 8; }
  static SIMT_DEV int column(int e) { return firstColumn() + e / 4 * 8 + lane() % 4 * 2 + (e & 1); }
  static SIMT_DEV int rowIndex(int e) { return e / 2 & 1; }
  static SIMT_DEV int slot() { return threadIdx.x / 32 % 2 * 4 + lane() % 4; }

  template <bool kTransposedA, bool kTransposedB>
  static SIMT_DEV void multiply(float (&sums)[16], const T* a, int aStride, const T* b, int bStride, int depth) {
    const int matrix = lane() >> 3, r = lane() & 7, low = (matrix & 1) * 8 + r, high = (matrix >> 1) * 8 + r;
    SIMT_NOUNROLL for (int k = 0; k < depth; k += 16) {
      uint32_t x[4];
      if constexpr (kTransposedA) {
        simt::ldmatrix_x4_trans(x, a + (k + high) * aStride + firstRow() + (matrix & 1) * 8);
      } else {
        simt::ldmatrix_x4(x, a + (firstRow() + low) * aStride + k + (matrix >> 1) * 8);
      }
      SIMT_UNROLL for (int n = 0; n < 2; ++n) {
        uint32_t y[4];
        if constexpr (kTransposedB) {
          simt::ldmatrix_x4_trans(y, b + (k + low) * bStride + firstColumn() + n * 16 + (matrix >> 1) * 8);
        } else {
          simt::ldmatrix_x4(y, b + (firstColumn() + n * 16 + high) * bStride + k + (matrix & 1) * 8);
        }
        SIMT_UNROLL for (int half = 0; half < 2; ++half) {
          float(&d)[4] = *reinterpret_cast<float(*)[4]>(&sums[n * 8 + half * 4]);
          simt::mma_bf16(d, x, y[2 * half], y[2 * half + 1]);
        }
      }
    }
  }
};

// A tile of 64 rows of kColumns in shared memory: row(r) points to what row r is filled with from its first column on,
// or is null; `valid` columns are there (any number, also more than kColumns), zeros behind. `vector`: rows begin at
// multiples of 16 bytes, and `valid` is a multiple of 16 bytes. The copies are this thread's to wait for.
template <int kColumns, class T, class Row>
SIMT_DEV void loadTile(T* to, int stride, bool vector, int valid, Row&& row) {
  constexpr int kPiece = 16 / sizeof(T), kPieces = kColumns / kPiece;
  const int t = static_cast<int>(threadIdx.x);
  if (vector) {
    SIMT_NOUNROLL for (int i = 0; i < kTileRows * kPieces; i += kGradientThreads) {
      const int r = (i + t) / kPieces, c = (i + t) % kPieces * kPiece;
      const T* from = row(r);
      T* at = to + r * stride + c;
      if (from && c < valid) {
        simt::cp_async16(at, from + c);
      } else {
        simt::st4(at, 0, 0, 0, 0);
      }
    }
    return;
  }
  for (int i = t; i < kTileRows * kColumns; i += kGradientThreads) {
    const int r = i / kColumns, c = i % kColumns;
    const T* from = row(r);
    to[r * stride + c] = from && c < valid ? from[c] : T(0);
  }
}

// The same with every row multiplied by factor(r), rounded to T.
template <int kColumns, class T, class Row, class Factor>
SIMT_DEV void loadScaledTile(T* to, int stride, int valid, Row&& row, Factor&& factor) {
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kColumns; i += kGradientThreads) {
    const int r = i / kColumns, c = i % kColumns;
    const T* from = row(r);
    put(to + r * stride + c, from && c < valid ? floatOf(from[c]) * factor(r) : 0.0f);
  }
}

}  // namespace rankone::cuda
