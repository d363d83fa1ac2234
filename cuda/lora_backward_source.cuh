// Where tiles of the fused LoRA product's backward come from: matrices, rows gathered from anywhere, packed weights.
#pragma once
#include "lora_backward_tile.cuh"
#include "lora_dropout.cuh"
#include "matmul_tile_weights.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

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

inline Lines linesFrom(const Lines& lines, int64_t first) {
  const int64_t size = lines.dtype == RANKONE_F32 ? 4 : 2;
  return {static_cast<const char*>(lines.data) + first * lines.ld * size, lines.dtype, lines.aligned, lines.ld};
}

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

// The same for an asynchronous copy, of elements that are aligned and as the arithmetic wants them.
SIMT_DEV const char* addressOf(const Lines& from, int64_t line, int64_t column, int64_t columns, int& bytes) {
  const int size = from.dtype == RANKONE_F32 ? 4 : 2;
  const int64_t left = (columns - column) * size;
  if (left < bytes) bytes = left < 0 ? 0 : static_cast<int>(left);
  return static_cast<const char*>(from.data) + (bytes ? (line * from.ld + column) * size : 0);
}

// Of sources whose elements need no further work.
struct PlainSource {
  template <class Math>
  using Fetched = typename Math::Chunk;
  template <class Math>
  SIMT_DEV void expand(const typename Math::Chunk& fetched, typename Math::Chunk& chunk) const {
    chunk = fetched;
  }
};

// A matrix from (firstLine, firstColumn) on; zeros beyond its end.
struct MatrixSource : PlainSource {
  Lines from;
  int64_t lines, columns;
  int64_t firstLine, firstColumn;

  template <class Math>
  SIMT_DEV void fetch(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    if (firstLine + line >= lines) return clearChunk(chunk);
    loadElements<Math>(from, firstLine + line, firstColumn + column, columns, chunk);
  }
  SIMT_DEV const char* address(int64_t line, int64_t column, int& bytes) const {
    if (firstLine + line >= lines) bytes = 0;
    return addressOf(from, firstLine + line, firstColumn + column, columns, bytes);
  }
};

// What dropout leaves: a bit for every element, in the order of columns, rows `ld` bytes apart. bits null: all.
struct KeptBits {
  const uint8_t* bits;
  int64_t ld;
  float factor;  // of what stays; sources leave it out

  SIMT_DEV uint32_t at(int64_t row, int64_t column) const { return bits[row * ld + column / 8] >> (column % 8); }
};

SIMT_DEV void dropElement(HalfChunk& chunk, int i) { chunk.words[i / 2] &= i % 2 ? 0xffffu : 0xffff0000u; }
SIMT_DEV void dropElement(FloatChunk& chunk, int i) { chunk.values[i] = 0; }

// Rows from anywhere, `rows` naming them, as lines. Negative rows, and those from `count` on, are zeros.
struct GatheredSource : PlainSource {
  Lines from;
  const int64_t* rows;  // null: line i is row firstRow + i
  int64_t firstRow;
  int64_t count, columns, firstColumn;
  KeptBits kept;

  template <class Math>
  SIMT_DEV void fetch(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    const int64_t row = line >= count ? -1 : rows ? rows[line] : firstRow + line;
    if (row < 0) return clearChunk(chunk);
    column += firstColumn;
    loadElements<Math>(from, row, column, columns, chunk);
    if (!kept.bits || column >= columns) return;
    const uint32_t stay = kept.at(row, column);
    SIMT_UNROLL
    for (int i = 0; i < kChunk; ++i)
      if (!(stay >> i & 1)) dropElement(chunk, i);
  }
  SIMT_DEV const char* address(int64_t line, int64_t column, int& bytes) const {
    const int64_t row = line >= count ? -1 : rows ? rows[line] : firstRow + line;
    if (row < 0) bytes = 0;
    return addressOf(from, row, firstColumn + column, columns, bytes);
  }
};

// The same, each row multiplied by a vector of its own where it has one.
struct ScaledSource : PlainSource {
  GatheredSource rows;
  const float* const* scales;  // by line, in shared memory; null: none

  SIMT_DEV const char* address(int64_t line, int64_t column, int& bytes) const {
    return rows.address(line, column, bytes);  // where no line has a scale
  }
  template <class Math>
  SIMT_DEV void fetch(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    const float* scale = scales[line];
    if (!scale) return rows.fetch<Math>(line, column, chunk);
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

// The base, from output firstLine and column firstColumn on, of any format. Scales are of whole chunks: blocks are
// multiples of 8 columns. What lies beyond the end of a row may be any number.
struct CodesSource {  // int8, q8, nf4, q4
  RankoneWeight w;
  const float* nf4;  // kNf4Values in shared memory, a bank for each
  int64_t firstLine, firstColumn;

  struct Codes {
    uint32_t words[2];
    float scale;
  };
  template <class Math>
  using Fetched = Codes;

  template <class Math>
  SIMT_DEV void fetch(int64_t line, int64_t column, Codes& codes) const {
    line += firstLine;
    column += firstColumn;
    codes = {};
    if (line >= w.out || column >= w.in) return;
    const auto* row = static_cast<const uint8_t*>(w.codes) + line * w.rowBytes;
    codes.scale = w.block ? w.scales[line * ((w.in + w.block - 1) / w.block) + column / w.block] : w.scales[line];
    if (w.format == RANKONE_WEIGHT_INT8 || w.format == RANKONE_WEIGHT_Q8)
      simt::ld2(codes.words, row + column);
    else
      codes.words[0] = *reinterpret_cast<const uint32_t*>(row + column / 2);
  }
  template <class Math>
  SIMT_DEV void expand(const Codes& codes, typename Math::Chunk& chunk) const {
    float v[kChunk];
    if (w.format == RANKONE_WEIGHT_INT8 || w.format == RANKONE_WEIGHT_Q8) {
      SIMT_UNROLL
      for (int i = 0; i < kChunk; ++i)
        v[i] = static_cast<float>(static_cast<int8_t>(codes.words[i / 4] >> (i % 4 * 8) & 0xff)) * codes.scale;
    } else {
      SIMT_UNROLL
      for (int i = 0; i < kChunk; ++i) {
        const int code = static_cast<int>(codes.words[0] >> (4 * i) & 15);
        v[i] = (w.format == RANKONE_WEIGHT_NF4 ? nf4[code] : static_cast<float>(code - 8)) * codes.scale;
      }
    }
    narrowChunk<Math>(v, chunk);
  }
};

struct WeightSource : CodesSource {
  template <class Math>
  using Fetched = typename Math::Chunk;

  SIMT_DEV Lines lines() const {
    static_assert(int{RANKONE_WEIGHT_BF16} == RANKONE_BF16 && int{RANKONE_WEIGHT_F16} == RANKONE_F16);
    return {w.codes, w.format, 1, w.rowBytes / (w.format == RANKONE_WEIGHT_F32 ? 4 : 2)};
  }
  SIMT_DEV const char* address(int64_t line, int64_t column, int& bytes) const {
    if (firstLine + line >= w.out) bytes = 0;
    return addressOf(lines(), firstLine + line, firstColumn + column, w.in, bytes);
  }
  template <class Math>
  SIMT_DEV void fetch(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    if (w.format > RANKONE_WEIGHT_F16) {
      Codes codes;
      CodesSource::fetch<Math>(line, column, codes);
      return CodesSource::expand<Math>(codes, chunk);
    }
    if (firstLine + line >= w.out) return clearChunk(chunk);
    loadElements<Math>(lines(), firstLine + line, firstColumn + column, w.in, chunk);
  }
  template <class Math>
  SIMT_DEV void expand(const typename Math::Chunk& fetched, typename Math::Chunk& chunk) const {
    chunk = fetched;
  }
};

}  // namespace rankone::cuda
