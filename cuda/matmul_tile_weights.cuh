// Weights on their way into products: rows of codes with scales, copied as they are, expanded in shared memory.
#pragma once
#include "backend.h"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// Elements as they are multiplied.
struct Bf16Element {
  using Word = uint16_t;
  static constexpr int32_t kFormat = RANKONE_WEIGHT_BF16;
  static SIMT_DEV void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    simt::mma_bf16(d, a, b0, b1);
  }
  static SIMT_DEV uint32_t pack(float low, float high) { return simt::pack_bf16(low, high); }
};
struct F16Element {
  using Word = uint16_t;
  static constexpr int32_t kFormat = RANKONE_WEIGHT_F16;
  static SIMT_DEV void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    simt::mma_f16(d, a, b0, b1);
  }
  static SIMT_DEV uint32_t pack(float low, float high) { return simt::pack_f16(low, high); }
};
struct F32Element {
  using Word = float;
  static constexpr int32_t kFormat = RANKONE_WEIGHT_F32;
};

// The place of a row's 16-byte piece in a tile, in bytes: one piece of eight neighbouring rows falls into eight
// different banks.
template <int PIECES>
SIMT_DEV int pieceAt(int row, int piece) {
  static_assert(PIECES % 8 == 0);
  return (row * PIECES + (piece ^ (row & 7))) * 16;
}

struct WeightFormat {
  int32_t format;
  int64_t rowBytes;  // of a row that may be read
  int32_t block;     // columns of a scale, a power of two from 8 on; 0: none here (of int8 the caller has them)
  int32_t blockShift;
  int64_t blocks;  // of a row
};

// Rows of a tile, in shared memory: null: zeros.
struct WeightRows {
  const uint8_t** codes;
  const float** scales;
  const float* nf4;  // its 16 values
};

// NF4's values: Dettmers et al., QLoRA, 2023.
SIMT_CONSTANT float kNf4Values[16] = {-1.0f,
                                      -0.6961928009986877f,
                                      -0.5250730514526367f,
                                      -0.39491748809814453f,
                                      -0.28444138169288635f,
                                      -0.18477343022823334f,
                                      -0.09105003625154495f,
                                      0.0f,
                                      0.07958029955625534f,
                                      0.16093020141124725f,
                                      0.24611230194568634f,
                                      0.33791524171829224f,
                                      0.44070982933044434f,
                                      0.5626170039176941f,
                                      0.7229568362236023f,
                                      1.0f};

SIMT_HOST_DEV constexpr int bitsOf(int32_t format) {
  return format == RANKONE_WEIGHT_F32                                    ? 32
         : format == RANKONE_WEIGHT_BF16 || format == RANKONE_WEIGHT_F16 ? 16
         : format == RANKONE_WEIGHT_INT8 || format == RANKONE_WEIGHT_Q8  ? 8
                                                                         : 4;
}
// Scales that are copied with each 16 bytes of codes.
SIMT_HOST_DEV int scalesPerPiece(const WeightFormat& f) {
  if (!f.block) return 0;
  const int columns = 128 / bitsOf(f.format);
  return columns > f.block ? columns / f.block : 1;
}
// `rows` x `columns` codes as they come, and their scales behind them.
SIMT_HOST_DEV int rawBytes(int rows, int columns, const WeightFormat& f) {
  const int pieces = rows * columns * bitsOf(f.format) / 128;
  return (pieces * (16 + 4 * scalesPerPiece(f)) + 15) / 16 * 16;
}

// A thread copies every THREADS-th piece, and expands the same ones. thread: its number among those that share them.
template <int BK, int THREADS>
SIMT_DEV void copyRaw(uint8_t* to, const WeightRows& rows, const WeightFormat& f, int count, int64_t step,
                      const void* somewhere, int thread = static_cast<int>(threadIdx.x)) {
  const int bits = bitsOf(f.format), perRow = BK * bits / 128, columns = 128 / bits, scales = scalesPerPiece(f);
  const int pieces = count * perRow;
  float* scaleTo = reinterpret_cast<float*>(to + pieces * 16);
  for (int q = thread; q < pieces; q += THREADS) {
    const int row = q / perRow, piece = q % perRow;
    const int64_t at = (step * perRow + piece) * 16, left = f.rowBytes - at;
    const int bytes = left >= 16 ? 16 : left > 0 ? static_cast<int>(left) : 0;
    const uint8_t* codes = rows.codes[row];
    const bool there = codes && bytes > 0;
    simt::cp_async16_zfill(to + q * 16, there ? codes + at : somewhere, there ? bytes : 0);
    if (!scales) continue;
    // Codes beyond the row's end get a scale of 0.
    for (int s = 0; s < scales; ++s) {
      const int64_t first = step * BK + piece * columns + s * f.block;
      float* slot = scaleTo + q * scales + s;
      if (there && first >> f.blockShift < f.blocks) {
        simt::cp_async4(slot, rows.scales[row] + (first >> f.blockShift));
      } else {
        *slot = 0;
      }
    }
  }
}

// 16 bytes of codes as floats, given to put(first, a, b, c, d) four at a time.
template <class Put>
SIMT_DEV void expandPiece(const uint32_t (&word)[4], const WeightFormat& f, const float* scales, const float* nf4,
                          Put&& put) {
  const auto scaleAt = [&](int column) { return scales[column >> f.blockShift]; };
  switch (f.format) {
    case RANKONE_WEIGHT_F32:
      put(0, simt::f32_from_bits(word[0]), simt::f32_from_bits(word[1]), simt::f32_from_bits(word[2]),
          simt::f32_from_bits(word[3]));
      break;
    case RANKONE_WEIGHT_BF16:
    case RANKONE_WEIGHT_F16:
      SIMT_UNROLL for (int i = 0; i < 4; i += 2) {
        float v[4];
        SIMT_UNROLL for (int e = 0; e < 4; ++e) {
          const uint16_t u = static_cast<uint16_t>(word[i + e / 2] >> e % 2 * 16);
          v[e] = f.format == RANKONE_WEIGHT_BF16 ? simt::bf16_to_f32(u) : simt::f16_to_f32(u);
        }
        put(i * 2, v[0], v[1], v[2], v[3]);
      }
      break;
    case RANKONE_WEIGHT_INT8:
    case RANKONE_WEIGHT_Q8:
      SIMT_UNROLL for (int i = 0; i < 4; ++i) {
        const float scale = f.block ? scaleAt(i * 4) : 1;
        float v[4];
        SIMT_UNROLL for (int e = 0; e < 4; ++e) v[e] =
            scale * static_cast<float>(static_cast<int8_t>(word[i] >> e * 8));
        put(i * 4, v[0], v[1], v[2], v[3]);
      }
      break;
    default:
      SIMT_UNROLL for (int i = 0; i < 4; ++i) {
        const float scale = scaleAt(i * 8);
        float v[8];
        SIMT_UNROLL for (int e = 0; e < 8; ++e) {
          const uint32_t code = word[i] >> e * 4 & 15;
          v[e] = scale *
                 (f.format == RANKONE_WEIGHT_NF4 ? nf4[code] : simt::f32_from_bits(0x4b000000u | code) - 8388616.0f);
        }
        put(i * 8, v[0], v[1], v[2], v[3]);
        put(i * 8 + 4, v[4], v[5], v[6], v[7]);
      }
  }
}

// The pieces that this thread has copied, as elements in a tile [count, BK].
template <class Element, int BK, int THREADS>
SIMT_DEV void expandRaw(uint8_t* to, const uint8_t* raw, const WeightRows& rows, const WeightFormat& f, int count,
                        int thread = static_cast<int>(threadIdx.x)) {
  constexpr int SIZE = sizeof(typename Element::Word), PIECES = BK * SIZE / 16;
  const int bits = bitsOf(f.format), perRow = BK * bits / 128, columns = 128 / bits, scales = scalesPerPiece(f);
  const int pieces = count * perRow;
  const float* scaleFrom = reinterpret_cast<const float*>(raw + pieces * 16);
  for (int q = thread; q < pieces; q += THREADS) {
    const int row = q / perRow, first = q % perRow * columns;
    uint32_t word[4];
    simt::ld4(word, raw + q * 16);
    expandPiece(word, f, scaleFrom + q * scales, rows.nf4, [&](int column, float a, float b, float c, float d) {
      const int at = (first + column) * SIZE;
      uint8_t* place = to + pieceAt<PIECES>(row, at / 16) + at % 16;
      if constexpr (SIZE == 4) {
        const float v[4] = {a, b, c, d};
        simt::st4(reinterpret_cast<float*>(place), v);
      } else {
        simt::st2(reinterpret_cast<uint32_t*>(place), Element::pack(a, b), Element::pack(c, d));
      }
    });
  }
}

}  // namespace rankone::cuda
