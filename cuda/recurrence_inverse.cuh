// The inverse of a 64x64 unit lower triangular matrix I + A by four warps: 16x16 blocks on the diagonal by forward
// substitution in float32, those under it by products of bf16 pairs, high and low part.
#pragma once
#include "recurrence_tiles.cuh"

namespace rankone::cuda {

constexpr int kDiagonalStride = 24;  // floats or bf16 of a row of a 16x16 block: rows in different banks

struct InverseTiles {
  uint16_t x[4][2][16 * kDiagonalStride + 16];  // inverses of the diagonal blocks, high and low part
  uint32_t below[6][2][32][4];                  // blocks of A under the diagonal as operands, high and low part
};

struct InverseDiagonal {
  __align__(16) float a[4][16 * kDiagonalStride];  // blocks of A on the diagonal, strictly lower triangular
};

// Block (i, j), i > j, of A from a warp's accumulators.
SIMT_DEV void storeBelow(InverseTiles& tiles, int i, int j, int lane, const float (&a)[2][4]) {
  uint32_t high[4], low[4];
  splitOperand(high, low, a);
  const int at = i * (i - 1) / 2 + j;
  simt::st4(tiles.below[at][0][lane], high[0], high[1], high[2], high[3]);
  simt::st4(tiles.below[at][1][lane], low[0], low[1], low[2], low[3]);
}

// Block (warp, warp) of T = (I + A)^-1 to `T` (see PrepLayout) and to the tiles. Lane j and lane j + 16 compute column
// j.
SIMT_DEV void invertDiagonal(InverseTiles& tiles, const InverseDiagonal& diagonal, char* T, int warp, int lane) {
  const int j = lane & 15, half = lane >> 4;
  float x[16];
  SIMT_UNROLL for (int i = 0; i < 16; ++i) {
    float y = i == j ? 1.0f : 0.0f;
    SIMT_UNROLL for (int m = 0; m < i; m += 4) {
      float a[4];
      simt::ld4(a, &diagonal.a[warp][i * kDiagonalStride + m]);
      SIMT_UNROLL for (int u = 0; u < 4; ++u) {
        if (m + u < i) y -= a[u] * x[m + u];
      }
    }
    x[i] = y;
  }
  SIMT_UNROLL for (int i = 0; i < 16; ++i) {
    const uint16_t high = simt::f32_to_bf16(x[i]);
    tiles.x[warp][half][i * kDiagonalStride + j] = half ? simt::f32_to_bf16(x[i] - simt::bf16_to_f32(high)) : high;
  }
  uint32_t u[4];
  SIMT_UNROLL for (int e = 0; e < 4; ++e) u[e] =
      half ? simt::pack_bf16(x[8 + 2 * e], x[9 + 2 * e]) : simt::pack_bf16(x[2 * e], x[2 * e + 1]);
  simt::st4(T + (warp * (warp + 1) / 2 + warp) * kBlockBytes + ((j >> 3) * 2 + half) * 128 + (j & 7) * 16, u[0], u[1],
            u[2], u[3]);
}

// d += a b^T for operands in two parts, without the product of the low ones; b's registers as operand A has them.
SIMT_DEV void multiplySplit(float (&d)[2][4], const uint32_t (&high)[4], const uint32_t (&low)[4],
                            const uint32_t (&bHigh)[4], const uint32_t (&bLow)[4]) {
  SIMT_UNROLL for (int n = 0; n < 2; ++n) {
    simt::mma_bf16(d[n], high, bHigh[n], bHigh[2 + n]);
    simt::mma_bf16(d[n], high, bLow[n], bLow[2 + n]);
    simt::mma_bf16(d[n], low, bHigh[n], bHigh[2 + n]);
  }
}

// T = (I + A)^-1 by warps 0 to 3 of barrier 1. Every warp has stored its row of blocks with storeBelow, and its block
// on the diagonal is in `diagonal`, seen by the whole warp.
SIMT_DEV void invert(InverseTiles& tiles, const InverseDiagonal& diagonal, char* T, int warp, int lane) {
  const int matrix = lane >> 3, r = lane & 7;
  invertDiagonal(tiles, diagonal, T, warp, lane);
  simt::bar_sync(1, 128);
  // Block column w of T, transposed: Z_i = T_iw^T = -(sum over m of Z_m A_im^T) X_i^T with X_i on the diagonal.
  uint32_t zHigh[3][4], zLow[3][4];
  const int transposed = ((matrix >> 1) * 8 + r) * kDiagonalStride + (matrix & 1) * 8;
  if (warp < 3) {
    simt::ldmatrix_x4_trans(zHigh[0], &tiles.x[warp][0][transposed]);
    simt::ldmatrix_x4_trans(zLow[0], &tiles.x[warp][1][transposed]);
  }
  SIMT_UNROLL for (int d = 1; d < 4; ++d) {
    const int i = warp + d;
    if (i > 3) break;
    float y[2][4] = {}, z[2][4] = {};
    uint32_t bHigh[4], bLow[4], yHigh[4], yLow[4];
    SIMT_UNROLL for (int e = 0; e < d; ++e) {
      const int at = i * (i - 1) / 2 + warp + e;
      simt::ld4(bHigh, tiles.below[at][0][lane]);
      simt::ld4(bLow, tiles.below[at][1][lane]);
      multiplySplit(y, zHigh[e], zLow[e], bHigh, bLow);
    }
    splitOperand(yHigh, yLow, y);
    const int plain = ((matrix & 1) * 8 + r) * kDiagonalStride + (matrix >> 1) * 8;
    simt::ldmatrix_x4(bHigh, &tiles.x[i][0][plain]);
    simt::ldmatrix_x4(bLow, &tiles.x[i][1][plain]);
    multiplySplit(z, yHigh, yLow, bHigh, bLow);
    SIMT_UNROLL for (int n = 0; n < 2; ++n) { SIMT_UNROLL for (int e = 0; e < 4; ++e) z[n][e] = -z[n][e]; }
    if (d < 3) splitOperand(zHigh[d], zLow[d], z);
    SIMT_UNROLL for (int n = 0; n < 2; ++n) {
      SIMT_UNROLL for (int e = 0; e < 2; ++e) simt::st1x2(
          reinterpret_cast<uint16_t*>(T + (i * (i + 1) / 2 + warp) * kBlockBytes + (e * 2 + n) * 128 + lane * 4),
          simt::pack_bf16(z[n][2 * e], z[n][2 * e + 1]));
    }
  }
}

}  // namespace rankone::cuda
