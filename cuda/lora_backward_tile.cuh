// Products of tiles on their way through shared memory, in the three arithmetics of the fused LoRA product's backward:
// bf16 and f16 operands on the tensor cores, and float32. Sums are float32, over ascending steps.
#pragma once
#include <cstdint>

#include "backend.h"
//
#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr int kTileThreads = 256;
constexpr int kChunk = 8;  // elements of an operand that move together

// kChunk neighbours of an operand, as an arithmetic wants them.
struct HalfChunk {
  uint32_t words[4];
};
struct FloatChunk {
  float values[kChunk];
};

struct Bf16Arithmetic {
  using Element = uint16_t;
  using Chunk = HalfChunk;
  static constexpr int32_t kDType = RANKONE_BF16;
  static SIMT_DEV uint32_t pack(float low, float high) { return simt::pack_bf16(low, high); }
  static SIMT_DEV void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    simt::mma_bf16(d, a, b0, b1);
  }
};

struct F16Arithmetic {
  using Element = uint16_t;
  using Chunk = HalfChunk;
  static constexpr int32_t kDType = RANKONE_F16;
  static SIMT_DEV uint32_t pack(float low, float high) { return simt::pack_f16(low, high); }
  static SIMT_DEV void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    simt::mma_f16(d, a, b0, b1);
  }
};

struct F32Arithmetic {
  using Element = float;
  using Chunk = FloatChunk;
  static constexpr int32_t kDType = RANKONE_F32;
};

template <class Math>
constexpr bool isF32 = Math::kDType == RANKONE_F32;

SIMT_DEV void clearChunk(HalfChunk& c) {
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) c.words[i] = 0;
}
SIMT_DEV void clearChunk(FloatChunk& c) {
  SIMT_UNROLL
  for (int i = 0; i < kChunk; ++i) c.values[i] = 0;
}
SIMT_DEV void storeChunk(uint16_t* to, const HalfChunk& c) {
  simt::st4(to, c.words[0], c.words[1], c.words[2], c.words[3]);
}
SIMT_DEV void storeChunk(float* to, const FloatChunk& c) {
  simt::st4(to, {c.values[0], c.values[1], c.values[2], c.values[3]});
  simt::st4(to + 4, {c.values[4], c.values[5], c.values[6], c.values[7]});
}
template <class Math>
SIMT_DEV void narrowChunk(const float (&v)[kChunk], typename Math::Chunk& c) {
  if constexpr (isF32<Math>) {
    SIMT_UNROLL
    for (int i = 0; i < kChunk; ++i) c.values[i] = v[i];
  } else {
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) c.words[i] = Math::pack(v[2 * i], v[2 * i + 1]);
  }
}

// Which of an operand's dimensions lies contiguous in memory: the one that is summed over, or the tile's own.
enum class Along { DEPTH, SIDE };

// One operand's share of a stage: kSide rows (or columns) of the product by kDepth steps.
//
// 16 bits: as it comes, lines padded so that the rows of a matrix lie in different banks. float32: steps as lines.
template <class Math, Along kAlong, int kSide, int kDepth>
struct Operand {
  static constexpr bool kTurned = isF32<Math> && kAlong == Along::DEPTH;
  static constexpr int kLines = kAlong == Along::DEPTH ? kSide : kDepth;
  static constexpr int kColumns = kAlong == Along::DEPTH ? kDepth : kSide;
  static constexpr int kLd = isF32<Math> ? kSide + 4 : kColumns + 8;
  static constexpr int kElements = isF32<Math> ? kDepth * kLd : kLines * kLd;
  static constexpr int kChunks = kSide * kDepth / kChunk / kTileThreads;  // of a thread
  static_assert(kChunks * kChunk * kTileThreads == kSide * kDepth);

  // The thread's chunks of steps [step, step + kDepth): source.load<Math>(line, column, chunk).
  template <class Source>
  static SIMT_DEV void load(const Source& source, int64_t step, typename Math::Chunk (&chunks)[kChunks]) {
    SIMT_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      const int c = static_cast<int>(threadIdx.x) + i * kTileThreads;
      const int line = c / (kColumns / kChunk), column = c % (kColumns / kChunk) * kChunk;
      if constexpr (kAlong == Along::DEPTH)
        source.template load<Math>(line, step + column, chunks[i]);
      else
        source.template load<Math>(step + line, column, chunks[i]);
    }
  }
  static SIMT_DEV void store(const typename Math::Chunk (&chunks)[kChunks], typename Math::Element* to) {
    SIMT_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      const int c = static_cast<int>(threadIdx.x) + i * kTileThreads;
      const int line = c / (kColumns / kChunk), column = c % (kColumns / kChunk) * kChunk;
      if constexpr (kTurned) {
        SIMT_UNROLL
        for (int k = 0; k < kChunk; ++k) to[(column + k) * kLd + line] = chunks[i].values[k];
      } else {
        storeChunk(to + line * kLd + column, chunks[i]);
      }
    }
  }
};

// A product of kRows x kColumns, kDepth steps a stage. Its sums are spread over the block's threads.
template <class MathOf, Along kAlongA, Along kAlongB, int kRowsOf, int kColumnsOf, int kDepthOf>
struct Tile {
  using Math = MathOf;
  static constexpr int kRows = kRowsOf, kColumns = kColumnsOf, kDepth = kDepthOf;
  using A = Operand<Math, kAlongA, kRows, kDepth>;
  using B = Operand<Math, kAlongB, kColumns, kDepth>;

  struct Stage {
    __align__(16) typename Math::Element a[A::kElements];
    __align__(16) typename Math::Element b[B::kElements];
  };

  // float32: 16 x 16 threads, rows and columns of each by fours, 64 apart. Tensor cores: warps side by side, each with
  // matrices of 16 x 8.
  static constexpr int kWarpRows = kRows >= 64 ? 2 : 1, kWarpColumns = 8 / kWarpRows;
  static constexpr int kM = isF32<Math> ? kRows / 16 : kRows / kWarpRows / 16;
  static constexpr int kN = isF32<Math> ? kColumns / 16 : kColumns / kWarpColumns / 8;
  static constexpr int kSums = isF32<Math> ? kM * kN : kM * kN * 4;
  struct Sums {
    float of[kSums];
  };

  static SIMT_DEV void clear(Sums& sums) {
    SIMT_UNROLL
    for (int i = 0; i < kSums; ++i) sums.of[i] = 0;
  }

  // visit(row, column, sum, sum of the column behind it): all that the thread holds, columns even.
  template <class Visit>
  static SIMT_DEV void visit(Sums& sums, const Visit& visit) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    if constexpr (isF32<Math>) {
      SIMT_UNROLL
      for (int m = 0; m < kM; ++m) SIMT_UNROLL
      for (int n = 0; n < kN; n += 2) visit(rowOf(m), columnOf(n), sums.of[m * kN + n], sums.of[m * kN + n + 1]);
    } else {
      const int row = warp / kWarpColumns * (kM * 16) + lane / 4,
                column = warp % kWarpColumns * (kN * 8) + lane % 4 * 2;
      SIMT_UNROLL
      for (int m = 0; m < kM; ++m) SIMT_UNROLL
      for (int n = 0; n < kN; ++n) SIMT_UNROLL
      for (int half = 0; half < 2; ++half) {
        float* at = sums.of + (m * kN + n) * 4 + half * 2;
        visit(row + m * 16 + half * 8, column + n * 8, at[0], at[1]);
      }
    }
  }

  // The row of sum i.
  static SIMT_DEV int rowAt(int i) {
    if constexpr (isF32<Math>) return rowOf(i / kN);
    const int thread = static_cast<int>(threadIdx.x);
    return thread / 32 / kWarpColumns * (kM * 16) + i / 4 / kN * 16 + i % 4 / 2 * 8 + thread % 32 / 4;
  }

  // sums += what a stage holds. Tensor cores: groups of 16 rows whose bit is not set, and columns from `columns` on,
  // may be left out.
  static SIMT_DEV void step(const Stage& stage, Sums& sums, uint32_t groups, int columns) {
    if constexpr (isF32<Math>)
      stepFloats(stage, sums);
    else
      stepMatrices(stage, sums, groups, columns);
  }

 private:
  static SIMT_DEV int rowOf(int m) { return m / 4 * 64 + static_cast<int>(threadIdx.x) / 16 * 4 + m % 4; }
  static SIMT_DEV int columnOf(int n) { return n / 4 * 64 + static_cast<int>(threadIdx.x) % 16 * 4 + n % 4; }

  static SIMT_DEV void stepFloats(const Stage& stage, Sums& sums) {
    SIMT_UNROLL
    for (int k = 0; k < kDepth; ++k) {
      float a[kM], b[kN];
      SIMT_UNROLL
      for (int m = 0; m < kM; m += 4) {
        float four[4];
        simt::ld4(four, stage.a + k * A::kLd + rowOf(m));
        SIMT_UNROLL
        for (int i = 0; i < 4; ++i) a[m + i] = four[i];
      }
      SIMT_UNROLL
      for (int n = 0; n < kN; n += 4) {
        float four[4];
        simt::ld4(four, stage.b + k * B::kLd + columnOf(n));
        SIMT_UNROLL
        for (int i = 0; i < 4; ++i) b[n + i] = four[i];
      }
      SIMT_UNROLL
      for (int m = 0; m < kM; ++m) SIMT_UNROLL
      for (int n = 0; n < kN; ++n) sums.of[m * kN + n] = fmaf(a[m], b[n], sums.of[m * kN + n]);
    }
  }

  static SIMT_DEV void stepMatrices(const Stage& stage, Sums& sums, uint32_t groups, int columns) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int row = warp / kWarpColumns * (kM * 16), column = warp % kWarpColumns * (kN * 8);
    const int low = lane % 16, high = lane / 16 * 8;  // of the addresses of four 8 x 8 matrices
    const uint32_t mine = groups >> (row / 16) & ((1u << kM) - 1);
    if (mine == 0 || column >= columns) return;
    SIMT_UNROLL
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t b[kN][2];
      SIMT_UNROLL
      for (int n = 0; n < kN; n += 2) {
        // of two neighbours, steps 0..7 and 8..15 of the first, then of the second
        uint32_t four[4];
        if constexpr (kAlongB == Along::SIDE) {
          simt::ldmatrix_x4_trans(four, stage.b + (k + low) * B::kLd + column + n * 8 + high);
        } else {
          simt::ldmatrix_x4(four, stage.b + (column + n * 8 + high + lane % 8) * B::kLd + k + (lane / 8 % 2) * 8);
        }
        b[n][0] = four[0], b[n][1] = four[1], b[n + 1][0] = four[2], b[n + 1][1] = four[3];
      }
      SIMT_UNROLL
      for (int m = 0; m < kM; ++m) {
        if (!(mine >> m & 1)) continue;
        uint32_t a[4];
        if constexpr (kAlongA == Along::SIDE) {
          simt::ldmatrix_x4_trans(a, stage.a + (k + high + lane % 8) * A::kLd + row + m * 16 + (lane / 8 % 2) * 8);
        } else {
          simt::ldmatrix_x4(a, stage.a + (row + m * 16 + low) * A::kLd + k + high);
        }
        SIMT_UNROLL
        for (int n = 0; n < kN; ++n) {
          float* at = sums.of + (m * kN + n) * 4;
          float d[4] = {at[0], at[1], at[2], at[3]};
          Math::mma(d, a, b[n][0], b[n][1]);
          at[0] = d[0], at[1] = d[1], at[2] = d[2], at[3] = d[3];
        }
      }
    }
  }
};

// sums += A B over steps [begin, end), by a whole block; sources give zeros beyond their ends. `stages`: two. What the
// sources read from shared memory must be visible.
template <class T, class SourceA, class SourceB>
SIMT_DEV void multiply(typename T::Stage* stages, typename T::Sums& sums, const SourceA& a, const SourceB& b,
                       int64_t begin, int64_t end, uint32_t groups = ~0u, int columns = T::kColumns) {
  if (begin >= end) return;
  typename T::Math::Chunk chunksA[T::A::kChunks], chunksB[T::B::kChunks];
  T::A::load(a, begin, chunksA);
  T::B::load(b, begin, chunksB);
  simt::syncthreads();  // whatever was multiplied before has been read
  int stage = 0;
  for (int64_t step = begin; step < end; step += T::kDepth, stage ^= 1) {
    T::A::store(chunksA, stages[stage].a);
    T::B::store(chunksB, stages[stage].b);
    simt::syncthreads();
    if (step + T::kDepth < end) {
      T::A::load(a, step + T::kDepth, chunksA);
      T::B::load(b, step + T::kDepth, chunksB);
    }
    T::step(stages[stage], sums, groups, columns);
  }
}

}  // namespace rankone::cuda
