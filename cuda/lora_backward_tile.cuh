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

  // visit(number, line, column) of the thread's chunks.
  template <class Visit>
  static SIMT_DEV void forChunks(const Visit& visit) {
    SIMT_UNROLL
    for (int i = 0; i < kChunks; ++i) {
      const int c = static_cast<int>(threadIdx.x) + i * kTileThreads;
      const int line = c / (kColumns / kChunk), column = c % (kColumns / kChunk) * kChunk;
      visit(i, line, column);
    }
  }
  // The thread's chunks of steps [step, step + kDepth), in two parts: source.fetch<Math>(line, column, fetched) reads
  // memory, source.expand<Math>(fetched, chunk) makes elements of it.
  template <class Source>
  using Fetched = typename Source::template Fetched<Math>;
  template <class Source>
  static SIMT_DEV void fetch(const Source& source, int64_t step, Fetched<Source> (&fetched)[kChunks]) {
    forChunks([&](int i, int line, int column) {
      if constexpr (kAlong == Along::DEPTH)
        source.template fetch<Math>(line, step + column, fetched[i]);
      else
        source.template fetch<Math>(step + line, column, fetched[i]);
    });
  }
  template <class Source>
  static SIMT_DEV void store(const Source& source, const Fetched<Source> (&fetched)[kChunks],
                             typename Math::Element* to) {
    forChunks([&](int i, int line, int column) {
      typename Math::Chunk chunk;
      source.template expand<Math>(fetched[i], chunk);
      storeAt(chunk, line, column, to);
    });
  }
  // Both at once, chunk by chunk: for fewer registers.
  template <class Source>
  static SIMT_DEV void move(const Source& source, int64_t step, typename Math::Element* to) {
    forChunks([&](int, int line, int column) {
      Fetched<Source> fetched;
      typename Math::Chunk chunk;
      if constexpr (kAlong == Along::DEPTH)
        source.template fetch<Math>(line, step + column, fetched);
      else
        source.template fetch<Math>(step + line, column, fetched);
      source.template expand<Math>(fetched, chunk);
      storeAt(chunk, line, column, to);
    });
  }
  // The same straight to shared memory: source.address(line, column, bytes) says where a chunk begins, and how many of
  // its bytes there are.
  template <class Source>
  static SIMT_DEV void copy(const Source& source, int64_t step, typename Math::Element* to) {
    static_assert(!kTurned);
    constexpr int kBytes = kChunk * static_cast<int>(sizeof(typename Math::Element));
    forChunks([&](int, int line, int column) {
      int bytes = kBytes;
      const char* from = kAlong == Along::DEPTH ? source.address(line, step + column, bytes)
                                                : source.address(step + line, column, bytes);
      SIMT_UNROLL
      for (int b = 0; b < kBytes; b += 16) {
        const int here = bytes - b < 0 ? 0 : bytes - b < 16 ? bytes - b : 16;
        simt::cp_async16_zfill(reinterpret_cast<char*>(to + line * kLd + column) + b, from + (here ? b : 0), here);
      }
    });
  }

 private:
  static SIMT_DEV void storeAt(const typename Math::Chunk& chunk, int line, int column, typename Math::Element* to) {
    if constexpr (kTurned) {
      SIMT_UNROLL
      for (int k = 0; k < kChunk; ++k) to[(column + k) * kLd + line] = chunk.values[k];
    } else {
      storeChunk(to + line * kLd + column, chunk);
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
    uint32_t owners[kRows / 32];  // a bit for every row that the step is for
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

  // sums += what a stage holds. kOwned: only of the rows that the stage is for; the others keep their bits, whatever it
  // holds. Tensor cores: rows from `rows` on and columns from `columns` on may be left out.
  template <bool kOwned>
  static SIMT_DEV void step(const Stage& stage, Sums& sums, int rows, int columns) {
    if constexpr (isF32<Math>)
      stepFloats<kOwned>(stage, sums);
    else
      stepMatrices<kOwned>(stage, sums, rows, columns);
  }

 private:
  static SIMT_DEV int rowOf(int m) { return m / 4 * 64 + static_cast<int>(threadIdx.x) / 16 * 4 + m % 4; }
  static SIMT_DEV int columnOf(int n) { return n / 4 * 64 + static_cast<int>(threadIdx.x) % 16 * 4 + n % 4; }

  static SIMT_DEV bool owned(const Stage& stage, int row) { return stage.owners[row / 32] >> (row % 32) & 1; }

  template <bool kOwned>
  static SIMT_DEV void stepFloats(const Stage& stage, Sums& sums) {
    bool own[kM];
    SIMT_UNROLL
    for (int m = 0; m < kM; ++m) own[m] = !kOwned || owned(stage, rowOf(m));
    SIMT_NOUNROLL
    for (int k0 = 0; k0 < kDepth; k0 += 4) SIMT_UNROLL
    for (int k = k0; k < k0 + 4; ++k) {
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
      for (int n = 0; n < kN; ++n) {
        const float sum = fmaf(a[m], b[n], sums.of[m * kN + n]);
        sums.of[m * kN + n] = own[m] ? sum : sums.of[m * kN + n];
      }
    }
  }

  template <bool kOwned>
  static SIMT_DEV void stepMatrices(const Stage& stage, Sums& sums, int rows, int columns) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int row = warp / kWarpColumns * (kM * 16), column = warp % kWarpColumns * (kN * 8);
    const int low = lane % 16, high = lane / 16 * 8;  // of the addresses of four 8 x 8 matrices
    if (row >= rows || column >= columns) return;
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
        if (row + m * 16 >= rows) continue;
        uint32_t owners = 0xffff;
        if constexpr (kOwned) owners = stage.owners[(row + m * 16) / 32] >> (row + m * 16) % 32 & 0xffff;
        if (owners == 0) continue;
        const bool first = owners >> (lane / 4) & 1, second = owners >> (lane / 4 + 8) & 1;
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
          at[0] = first ? d[0] : at[0], at[1] = first ? d[1] : at[1];
          at[2] = second ? d[2] : at[2], at[3] = second ? d[3] : at[3];
        }
      }
    }
  }
};

// How an operand comes to shared memory: copied as it is, asynchronously; through registers, a stage ahead of its use;
// or through few registers.
enum class Way { COPIED, FETCHED, MOVED };

// sums += A B over steps [begin, end), by a whole block; sources give zeros beyond their ends. kOwned: of every kDepth
// steps for the rows that a.owns(step, row) names. `stages`: as many as kStages; the call begins with a barrier, behind
// which nobody else may be at them.
template <class T, int kStages, Way kWayA, Way kWayB, bool kOwned = false, class SourceA, class SourceB>
SIMT_DEV void multiply(typename T::Stage* stages, typename T::Sums& sums, const SourceA& a, const SourceB& b,
                       int64_t begin, int64_t end, int rows = T::kRows, int columns = T::kColumns) {
  if (begin >= end) return;
  using A = typename T::A;
  using B = typename T::B;
  constexpr bool kCopies = kWayA == Way::COPIED || kWayB == Way::COPIED;
  typename A::template Fetched<SourceA> fetchedA[A::kChunks];
  typename B::template Fetched<SourceB> fetchedB[B::kChunks];
  const int thread = static_cast<int>(threadIdx.x);
  const auto start = [&](int64_t step, int slot) {
    if (step < end) {
      if constexpr (kWayA == Way::COPIED) A::copy(a, step, stages[slot].a);
      if constexpr (kWayB == Way::COPIED) B::copy(b, step, stages[slot].b);
    }
    if constexpr (kCopies) simt::cp_async_commit();
    if (step >= end) return;
    if constexpr (kWayA == Way::FETCHED) A::fetch(a, step, fetchedA);
    if constexpr (kWayB == Way::FETCHED) B::fetch(b, step, fetchedB);
    if constexpr (kWayA == Way::MOVED) A::move(a, step, stages[slot].a);
    if constexpr (kWayB == Way::MOVED) B::move(b, step, stages[slot].b);
    if constexpr (kOwned)
      if (thread < T::kRows) {
        const uint32_t owners = simt::ballot(a.owns(step, thread));
        if (thread % 32 == 0) stages[slot].owners[thread / 32] = owners;
      }
  };
  const auto finish = [&](int64_t step, int slot) {
    if (step >= end) return;
    if constexpr (kWayA == Way::FETCHED) A::store(a, fetchedA, stages[slot].a);
    if constexpr (kWayB == Way::FETCHED) B::store(b, fetchedB, stages[slot].b);
  };
  simt::syncthreads();
  SIMT_UNROLL
  for (int s = 0; s < kStages - 1; ++s) {
    start(begin + s * T::kDepth, s);
    finish(begin + s * T::kDepth, s);
  }
  int slot = 0;
  SIMT_NOUNROLL
  for (int64_t step = begin; step < end; step += T::kDepth) {
    if constexpr (kCopies) simt::cp_async_wait<kStages - 2>();
    simt::syncthreads();
    const int64_t ahead = step + (kStages - 1) * T::kDepth;
    const int free = slot ? slot - 1 : kStages - 1;  // read in the step before
    start(ahead, free);
    T::template step<kOwned>(stages[slot], sums, rows, columns);
    finish(ahead, free);
    if (++slot == kStages) slot = 0;
  }
  if constexpr (kCopies) simt::cp_async_wait<0>();
}

}  // namespace rankone::cuda
