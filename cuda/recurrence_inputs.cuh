// Arguments of the grid into what Prepared says.
#pragma once
#include "recurrence_curves.cuh"

namespace rankone::cuda {

constexpr int kInputThreads = 128;
constexpr int kMostRowValues = 8;  // of a lane: rows have up to 256 values

struct RowsArgs {
  const void* from;  // [rows, width]
  int32_t fromDType;
  void* to;  // [rows, padded], zeros behind width; or null
  int32_t toDType;
  int64_t rows;
  int32_t width, padded;
  int32_t keysFromGates;
  const float* scale;  // [rows] or null
  float* norm;         // [rows] 1 / |row|, before rounding to toDType; or null
};

// A warp takes a row.
static __global__ void __launch_bounds__(kInputThreads) recurrenceRows(const RowsArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kInputThreads / 32) + threadIdx.x / 32;
  if (row >= args.rows) return;
  float x[kMostRowValues];
  SIMT_UNROLL
  for (int i = 0; i < kMostRowValues; ++i) {
    const int at = i * 32 + lane;
    x[i] = at < args.width ? elementAt(args.from, args.fromDType, row * args.width + at) : 0.0f;
  }
  if (args.keysFromGates) {
    SIMT_UNROLL
    for (int i = 0; i < kMostRowValues; ++i) x[i] = keyOfGate(x[i]);
  }
  if (args.scale) {
    const float by = args.scale[row];
    SIMT_UNROLL
    for (int i = 0; i < kMostRowValues; ++i) x[i] = i * 32 + lane < args.width ? x[i] * by : 0.0f;
  }
  if (args.norm) {
    const float norm = inverseNorm(x);
    if (lane == 0) args.norm[row] = norm;
  }
  if (!args.to) return;
  SIMT_UNROLL
  for (int i = 0; i < kMostRowValues; ++i) {
    const int at = i * 32 + lane;
    if (at < args.padded) setElement(args.to, args.toDType, row * args.padded + at, x[i]);
  }
}

constexpr int kPiece = 8;  // 16-bit values that a lane reads and writes at once

// The same for rows of 16-bit values and whole pieces, into bf16: `lanes`, a power of two, take a row.
static __global__ void __launch_bounds__(kInputThreads) recurrenceRowPieces(const RowsArgs args, const int32_t lanes) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kInputThreads + threadIdx.x, row = thread / lanes;
  const int at = static_cast<int>(thread % lanes) * kPiece;
  const bool inside = row < args.rows && at < args.width;
  const int64_t offset = row * args.width + at;
  float x[kPiece] = {};
  if (inside) {
    uint32_t pairs[kPiece / 2];
    simt::ld4(pairs, static_cast<const uint16_t*>(args.from) + offset);
    const bool bf16 = args.fromDType == RANKONE_BF16;
    SIMT_UNROLL
    for (int i = 0; i < kPiece; ++i) {
      const uint16_t u = static_cast<uint16_t>(i % 2 ? pairs[i / 2] >> 16 : pairs[i / 2] & 0xffff);
      x[i] = bf16 ? simt::bf16_to_f32(u) : simt::f16_to_f32(u);
    }
    if (args.keysFromGates) {
      SIMT_UNROLL
      for (int i = 0; i < kPiece; ++i) x[i] = keyOfGate(x[i]);
    }
    const float by = args.scale ? args.scale[row] : 1.0f;
    SIMT_UNROLL
    for (int i = 0; i < kPiece; ++i) x[i] *= by;
  }
  if (args.norm) {
    const float norm = inverseNorm(x, lanes);
    if (inside && at == 0) args.norm[row] = norm;
  }
  if (inside && args.to)
    simt::st4(static_cast<uint16_t*>(args.to) + offset, simt::pack_bf16(x[0], x[1]), simt::pack_bf16(x[2], x[3]),
              simt::pack_bf16(x[4], x[5]), simt::pack_bf16(x[6], x[7]));
}

struct GatesArgs {
  const void* from;  // [tokens, heads, width]
  int32_t dtype;
  int64_t count;
  int32_t heads, width;
  const float *aLog, *dtBias;  // [heads], [heads, width]; or null
  float lowerBound;
  float* to;  // base-2 logs
};

static __global__ void __launch_bounds__(kInputThreads) recurrenceGates(const GatesArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kInputThreads + threadIdx.x;
  if (i >= args.count) return;
  float g = elementAt(args.from, args.dtype, i);
  if (args.aLog) {
    const int64_t of = i % (static_cast<int64_t>(args.heads) * args.width);
    g = activateGate(args.dtBias ? g + args.dtBias[of] : g, gateRate(args.aLog[of / args.width]), args.lowerBound);
  }
  args.to[i] = g * kLog2e;
}

struct BetasArgs {
  const void* from;  // [count]
  int32_t dtype;
  int64_t count;
  int32_t activation;
  float* to;
};

static __global__ void __launch_bounds__(kInputThreads) recurrenceBetas(const BetasArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kInputThreads + threadIdx.x;
  if (i < args.count) args.to[i] = activateBeta(elementAt(args.from, args.dtype, i), args.activation);
}

}  // namespace rankone::cuda
