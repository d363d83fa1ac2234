// Tiles of bf16 in shared memory and in operands of mma, and what chunk kernels do with them.
#pragma once
#include <cstdint>

#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr float kMostLog2 = 126.0f;   // an exponent's cap: 2^127 times a rounding error of 1 would be infinite
constexpr float kResetPenalty = 512;  // subtracted by a reset from cumulative log2 gates

// Where an element of a tile of `width` columns lies; width is 16, 32 or a multiple of 64. Pieces of 16 bytes are
// permuted so that those of one column in eight rows after each other are in different banks.
SIMT_DEV int swizzled(int row, int column, int width) {
  const int x = width >= 64 ? row & 7 : width == 32 ? (row >> 1) & 3 : (row >> 2) & 1;
  return row * width + (((column >> 3) ^ x) << 3) + (column & 7);
}

// Starts copies of `valid` rows of `columns` elements, a multiple of 8, into a swizzled tile, and writes zeros to the
// rest of it.
SIMT_DEV void loadTile(uint16_t* tile, int rows, int width, const uint16_t* from, int64_t stride, int valid,
                       int columns, int thread, int threads) {
  const int pieces = width / 8;
  for (int i = thread; i < rows * pieces; i += threads) {
    const int row = i / pieces, column = i % pieces * 8;
    uint16_t* to = tile + swizzled(row, column, width);
    if (row < valid && column < columns) {
      simt::cp_async16(to, from + row * stride + column);
    } else {
      simt::st4(to, 0, 0, 0, 0);
    }
  }
}

SIMT_DEV float lowBf16(uint32_t pair) { return simt::bf16_to_f32(static_cast<uint16_t>(pair & 0xffff)); }
SIMT_DEV float highBf16(uint32_t pair) { return simt::bf16_to_f32(static_cast<uint16_t>(pair >> 16)); }

// 2^x of a difference of cumulative log gates. Above the cap are differences that a mask removes, and such that
// overflow float32 a token or so later.
SIMT_DEV float decayOf(float x) { return simt::ex2(x > kMostLog2 ? kMostLog2 : x); }

// row / n of a row of a chunk.
SIMT_DEV int tokenOf(int row, int n) { return n == 1 ? row : (row * (65536 / n + 1)) >> 16; }

// Two neighbouring 16x8 accumulators as one 16x16 operand A in bf16.
SIMT_DEV void packOperand(uint32_t (&a)[4], const float (&x)[4], const float (&y)[4]) {
  a[0] = simt::pack_bf16(x[0], x[1]);
  a[1] = simt::pack_bf16(x[2], x[3]);
  a[2] = simt::pack_bf16(y[0], y[1]);
  a[3] = simt::pack_bf16(y[2], y[3]);
}

// The same in two parts, whose sum has 16 bits of precision.
SIMT_DEV void splitOperand(uint32_t (&high)[4], uint32_t (&low)[4], const float (&x)[2][4]) {
  packOperand(high, x[0], x[1]);
  SIMT_UNROLL for (int n = 0; n < 2; ++n) {
    SIMT_UNROLL for (int e = 0; e < 2; ++e) {
      const uint32_t h = high[n * 2 + e];
      low[n * 2 + e] = simt::pack_bf16(x[n][2 * e] - lowBf16(h), x[n][2 * e + 1] - highBf16(h));
    }
  }
}

// d += a b^T of two 16x16 operands whose b is held as ldmatrix_x4 loads rows of b, tiles [row half][column half].
SIMT_DEV void multiply(float (&d)[2][4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  simt::mma_bf16(d[0], a, b[0], b[1]);
  simt::mma_bf16(d[1], a, b[2], b[3]);
}

}  // namespace rankone::cuda
