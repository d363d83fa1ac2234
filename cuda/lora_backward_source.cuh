// Where tiles of the fused LoRA product's backward come from: matrices, rows gathered from anywhere, packed weights.
#pragma once
#include "lora_backward_tile.cuh"

namespace rankone::cuda {

// Floats of any dtype as lines `ld` elements apart.
struct Lines {
  const void* data;
  int32_t dtype;
  int32_t aligned;  // every line begins at a multiple of 16 bytes
  int64_t ld;
};

SIMT_HOST_DEV Lines linesOf(const RankoneFloats& floats, int64_t ld) {
  const int64_t size = floats.dtype == RANKONE_F32 ? 4 : 2;
  const bool aligned = ld * size % 16 == 0 && reinterpret_cast<uintptr_t>(floats.data) % 16 == 0;
  return {floats.data, floats.dtype, aligned, ld};
}
SIMT_HOST_DEV Lines linesOf(const float* data, int64_t ld) { return linesOf(RankoneFloats{data, RANKONE_F32}, ld); }

SIMT_DEV float elementOf(const Lines& from, int64_t at) {
  switch (from.dtype) {
    case RANKONE_BF16: return simt::bf16_to_f32(static_cast<const uint16_t*>(from.data)[at]);
    case RANKONE_F16: return simt::f16_to_f32(static_cast<const uint16_t*>(from.data)[at]);
    default: return static_cast<const float*>(from.data)[at];
  }
}

// Elements [at, at + count) of kChunk, the others zero. `whole`: all of them, 16-byte aligned.
SIMT_DEV void widenChunk(const Lines& from, int64_t at, int count, bool whole, float (&v)[kChunk]) {
  if (!whole) {
    SIMT_UNROLL
    for (int i = 0; i < kChunk; ++i) v[i] = i < count ? elementOf(from, at + i) : 0.0f;
  } else if (from.dtype == RANKONE_F32) {
    float four[4];
    SIMT_UNROLL
    for (int half = 0; half < 2; ++half) {
      simt::ld4(four, static_cast<const float*>(from.data) + at + 4 * half);
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) v[4 * half + i] = four[i];
    }
  } else {
    uint32_t words[4];
    simt::ld4(words, static_cast<const uint16_t*>(from.data) + at);
    SIMT_UNROLL
    for (int i = 0; i < kChunk; ++i) {
      const uint16_t u = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
      v[i] = from.dtype == RANKONE_BF16 ? simt::bf16_to_f32(u) : simt::f16_to_f32(u);
    }
  }
}

template <class Math>
SIMT_DEV void loadElements(const Lines& from, int64_t line, int64_t column, int64_t columns,
                           typename Math::Chunk& chunk) {
  if (column >= columns) return clearChunk(chunk);
  const int64_t at = line * from.ld + column;
  const bool whole = from.aligned && column + kChunk <= columns;
  if constexpr (!isF32<Math>) {
    if (from.dtype == Math::kDType) {
      const auto* data = static_cast<const uint16_t*>(from.data) + at;
      if (whole) return simt::ld4(chunk.words, data);
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const uint32_t low = column + 2 * i < columns ? data[2 * i] : 0;
        const uint32_t high = column + 2 * i + 1 < columns ? data[2 * i + 1] : 0;
        chunk.words[i] = low | high << 16;
      }
      return;
    }
  }
  float v[kChunk];
  widenChunk(from, at, static_cast<int>(columns - column < kChunk ? columns - column : kChunk), whole, v);
  narrowChunk<Math>(v, chunk);
}

// A matrix from (firstLine, firstColumn) on; zeros beyond its end.
struct MatrixSource {
  Lines from;
  int64_t lines, columns;
  int64_t firstLine, firstColumn;

  template <class Math>
  SIMT_DEV void load(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    if (firstLine + line >= lines) return clearChunk(chunk);
    loadElements<Math>(from, firstLine + line, firstColumn + column, columns, chunk);
  }
};

// Dropout as LoraArgs has it: an element stays where its word is `least` at least. least 0: all do.
struct Dropout {
  uint64_t least, seed;
};

// Philox4x32-10, as in cpp/core/philox.h, of the four columns from a multiple of 4 on.
SIMT_DEV void dropoutWords(uint64_t seed, int64_t row, int64_t column, uint32_t (&c)[4]) {
  c[0] = static_cast<uint32_t>(column / 4);
  c[1] = static_cast<uint32_t>(row);
  c[2] = static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32);
  c[3] = 0;
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  SIMT_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * c[0], p1 = uint64_t{0xcd9e8d57u} * c[2];
    c[0] = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key1;
    c[3] = static_cast<uint32_t>(p0);
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
}

SIMT_DEV void dropElements(HalfChunk& chunk, int i) { chunk.words[i / 2] &= i % 2 ? 0xffffu : 0xffff0000u; }
SIMT_DEV void dropElements(FloatChunk& chunk, int i) { chunk.values[i] = 0; }

// Rows from anywhere, `rows` naming them, as lines. Negative rows, and those from `count` on, are zeros.
struct GatheredSource {
  Lines from;
  const int64_t* rows;  // null: line i is row firstRow + i
  int64_t firstRow;
  int64_t count, columns, firstColumn;
  Dropout dropout;  // of the rows' elements, without the factor for those that stay

  template <class Math>
  SIMT_DEV void load(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    const int64_t row = line >= count ? -1 : rows ? rows[line] : firstRow + line;
    if (row < 0) return clearChunk(chunk);
    column += firstColumn;
    loadElements<Math>(from, row, column, columns, chunk);
    if (dropout.least == 0) return;
    SIMT_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t words[4];
      dropoutWords(dropout.seed, row, column + 4 * half, words);
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i)
        if (words[i] < dropout.least) dropElements(chunk, 4 * half + i);
    }
  }
};

// The same, each row multiplied by a vector of its own where it has one.
struct ScaledSource {
  GatheredSource rows;
  const float* const* scales;  // by line, in shared memory; null: none

  template <class Math>
  SIMT_DEV void load(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    const float* scale = scales[line];
    if (!scale) return rows.load<Math>(line, column, chunk);
    column += rows.firstColumn;
    if (column >= rows.columns) return clearChunk(chunk);
    const int64_t left = rows.columns - column;
    const int count = static_cast<int>(left < kChunk ? left : kChunk);
    float v[kChunk];
    widenChunk(rows.from, rows.rows[line] * rows.from.ld + column, count, rows.from.aligned && count == kChunk, v);
    SIMT_UNROLL
    for (int i = 0; i < kChunk; ++i)
      if (i < count) v[i] *= scale[column + i];
    narrowChunk<Math>(v, chunk);
  }
};

// NF4's values: Dettmers et al., QLoRA, 2023.
SIMT_CONSTANT float kNf4Codes[16] = {-1.0f,
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

// The base, from output firstLine and column firstColumn on. Scales are of whole chunks: blocks are multiples of 8
// columns.
struct WeightSource {
  RankoneWeight w;
  const float* nf4;  // kNf4Codes in shared memory, a bank for each
  int64_t firstLine, firstColumn;

  template <class Math>
  SIMT_DEV void load(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    line += firstLine;
    column += firstColumn;
    if (line >= w.out || column >= w.in) return clearChunk(chunk);
    const auto* row = static_cast<const uint8_t*>(w.codes) + line * w.rowBytes;
    if (w.format <= RANKONE_WEIGHT_F16) {
      static_assert(int{RANKONE_WEIGHT_BF16} == RANKONE_BF16 && int{RANKONE_WEIGHT_F16} == RANKONE_F16);
      return loadElements<Math>({row, w.format, 1, 0}, 0, column, w.in, chunk);
    }
    const float scale = w.block ? w.scales[line * ((w.in + w.block - 1) / w.block) + column / w.block] : w.scales[line];
    float v[kChunk];
    if (w.format == RANKONE_WEIGHT_INT8 || w.format == RANKONE_WEIGHT_Q8) {
      uint32_t words[2];
      simt::ld2(words, row + column);
      SIMT_UNROLL
      for (int i = 0; i < kChunk; ++i) v[i] = static_cast<int8_t>(words[i / 4] >> (i % 4 * 8) & 0xff) * scale;
    } else {
      const uint32_t word = *reinterpret_cast<const uint32_t*>(row + column / 2);
      SIMT_UNROLL
      for (int i = 0; i < kChunk; ++i) {
        const int code = static_cast<int>(word >> (4 * i) & 15);
        v[i] = (w.format == RANKONE_WEIGHT_NF4 ? nf4[code] : static_cast<float>(code - 8)) * scale;
      }
    }
    SIMT_UNROLL
    for (int i = 0; i < kChunk; ++i)
      if (column + i >= w.in) v[i] = 0;
    narrowChunk<Math>(v, chunk);
  }
};

}  // namespace rankone::cuda
