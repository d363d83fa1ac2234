// What a scan writes to global memory from the fragments of mma, in whole sectors of 32 bytes where it can.
#pragma once
#include <cstdint>

#include "backend.h"
#include "simt/simt.cuh"

namespace rankone::cuda {

// Two values beside each other in a row, of which `columns` from the first are inside.
SIMT_DEV void storePair(void* to, int32_t dtype, int64_t at, int columns, float x, float y) {
  if (columns <= 0) return;
  if (dtype == RANKONE_F32) {
    float* f = static_cast<float*>(to) + at;
    f[0] = x;
    if (columns > 1) f[1] = y;
    return;
  }
  uint16_t* h = static_cast<uint16_t*>(to) + at;
  const uint32_t pair = dtype == RANKONE_BF16 ? simt::pack_bf16(x, y) : simt::pack_f16(x, y);
  h[0] = static_cast<uint16_t>(pair & 0xffff);
  if (columns > 1) h[1] = static_cast<uint16_t>(pair >> 16);
}

// Row lane / 4 of 16 columns as two accumulators hold it: columns 2 (lane % 4) and the one behind, and 8 columns on. By
// the whole warp; lanes whose row is not `inside` write nothing. `at`: the row's element in column 0; `columns` of it
// are inside. `wide`: groups of four elements are 8-byte aligned.
SIMT_DEV void storeRow(void* to, int32_t dtype, int64_t at, bool inside, int columns, bool wide, const float (&x)[2],
                       const float (&y)[2], int lane) {
  const int column = (lane & 3) * 2;
  if (!wide || dtype == RANKONE_F32) {
    if (!inside) return;
    storePair(to, dtype, at + column, columns - column, x[0], x[1]);
    storePair(to, dtype, at + 8 + column, columns - 8 - column, y[0], y[1]);
    return;
  }
  const bool bf16 = dtype == RANKONE_BF16, odd = (lane & 1) != 0;
  const uint32_t left = bf16 ? simt::pack_bf16(x[0], x[1]) : simt::pack_f16(x[0], x[1]);
  const uint32_t right = bf16 ? simt::pack_bf16(y[0], y[1]) : simt::pack_f16(y[0], y[1]);
  // Of two lanes beside each other one gets four columns on the left, the other four on the right.
  const uint32_t other = simt::shfl_xor(odd ? left : right, 1);
  const int first = odd ? 8 + column - 2 : column;
  if (!inside || first >= columns) return;
  uint32_t* pairs = reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(to) + at + first);
  simt::st2(pairs, odd ? other : left, odd ? right : other);
}

// An 8x16 block, rows by columns, transposed as operand A holds it: a lane has rows 2 (lane % 4) and the one behind, of
// column lane / 4 in `left` and of the column 8 on in `right`. By the whole warp.
SIMT_DEV void storeTransposed(uint16_t* to, int64_t stride, int rows, int columns, bool wide, uint32_t left,
                              uint32_t right, int lane) {
  const int row = (lane & 3) * 2, column = lane >> 2;
  if (!wide) {
    SIMT_UNROLL for (int e = 0; e < 4; ++e) {
      const int r = row + (e & 1), c = column + (e >> 1) * 8;
      const uint32_t pair = e >> 1 ? right : left;
      if (r < rows && c < columns) to[r * stride + c] = static_cast<uint16_t>(e & 1 ? pair >> 16 : pair & 0xffff);
    }
    return;
  }
  // Of columns beside each other one lane gets both elements of the first row, the other of the second; then of two
  // lanes with two columns each one gets all four on the left, the other those on the right.
  const bool odd = (lane & 4) != 0, second = (lane & 8) != 0;
  const auto swap = [odd](uint32_t pair) {
    const uint32_t other = simt::shfl_xor(odd ? pair & 0xffff : pair >> 16, 4);
    return odd ? other | (pair & 0xffff0000) : (pair & 0xffff) | other << 16;
  };
  left = swap(left);
  right = swap(right);
  const uint32_t other = simt::shfl_xor(second ? left : right, 8);
  const int r = row + odd, c = (column & 4) + (second ? 8 : 0);
  if (r < rows && c < columns)
    simt::st2(reinterpret_cast<uint32_t*>(to + r * stride + c), second ? other : left, second ? right : other);
}

}  // namespace rankone::cuda
