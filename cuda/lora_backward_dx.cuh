// dx = dropout'(sum over a row's adapters of A^T dt) + W^T (d dY): tiles of 128 rows and 128 columns.
//
// The adapters come first: each adapter's sums are made by themselves and added to the rows that have it, so that what
// is no number stays with the rows that have it. What dropout leaves of them is where the base's sums begin.
#pragma once
#include "lora_backward.h"
#include "lora_backward_source.cuh"

namespace rankone::cuda {

struct InputGradient {
  int64_t rows, in, out;
  Lines dY;
  RankoneWeight base;          // codes null: none, or
  int32_t identity;            // W = 1
  const float* const* scales;  // [rows] d of a row, or null; or null where no row has one
  const LoraUse* uses;
  const int64_t* firstSteps;  // as LoraItems::place() makes them
  const LoraTileStep* steps;
  const LoraTileEntry* entries;
  const float* dt;  // of items, by uses
  Dropout dropout;
  float kept;  // what dropout multiplies by
  void* dx;
  int32_t dtype;
};

// dt of the rows of a tile.
struct TurnedSource {
  Lines from;
  const int32_t* items;  // by line; -1: zeros
  int64_t columns;

  template <class Math>
  SIMT_DEV void load(int64_t line, int64_t column, typename Math::Chunk& chunk) const {
    const int32_t item = items[line];
    if (item < 0) return clearChunk(chunk);
    loadElements<Math>(from, item, column, columns, chunk);
  }
};

// dt and w have a range of their own, which f16 may not hold: adapters' products are in bf16 then.
template <class Math>
struct AdapterArithmetic {
  using Of = Math;
};
template <>
struct AdapterArithmetic<F16Arithmetic> {
  using Of = Bf16Arithmetic;
};

template <class Math>
struct InputGradientTiles {
  static constexpr int kDepth = isF32<Math> ? 16 : 32;
  using Base = Tile<Math, Along::DEPTH, Along::SIDE, kRowTile, 128, kDepth>;
  using Adapter = Tile<typename AdapterArithmetic<Math>::Of, Along::DEPTH, Along::SIDE, kRowTile, 128, kDepth>;
  struct Shared {
    union {
      typename Base::Stage base[2];
      typename Adapter::Stage adapter[2];
    };
    int64_t rows[kRowTile];
    const float* scales[kRowTile];
    int32_t items[kRowTile];
    int32_t owned[kRowTile];  // rows that have an adapter
    float nf4[16];
  };
};

SIMT_DEV void storePair(void* to, int32_t dtype, int64_t at, bool both, float first, float second) {
  if (dtype == RANKONE_F32) {
    auto* floats = static_cast<float*>(to) + at;
    if (both && reinterpret_cast<uintptr_t>(floats) % 8 == 0) return simt::st2(floats, first, second);
    floats[0] = first;
    if (both) floats[1] = second;
    return;
  }
  auto* halves = static_cast<uint16_t*>(to) + at;
  const uint32_t pair = dtype == RANKONE_BF16 ? simt::pack_bf16(first, second) : simt::pack_f16(first, second);
  if (both && reinterpret_cast<uintptr_t>(halves) % 4 == 0) return simt::st1x2(halves, pair);
  halves[0] = static_cast<uint16_t>(pair);
  if (both) halves[1] = static_cast<uint16_t>(pair >> 16);
}

// sums += what one adapter adds to the tile's columns from column0 on. By a whole block.
template <class Math>
SIMT_DEV void addAdapter(const InputGradient& p, typename InputGradientTiles<Math>::Shared& shared,
                         const LoraTileStep& step, int64_t column0,
                         typename InputGradientTiles<Math>::Base::Sums& sums) {
  using T = typename InputGradientTiles<Math>::Adapter;
  const int thread = static_cast<int>(threadIdx.x);
  const LoraUse& use = p.uses[step.use];
  const RankoneAdapter& a = use.adapter;
  simt::syncthreads();  // the adapter before has been added
  if (thread < kRowTile) shared.items[thread] = -1;
  simt::syncthreads();
  if (thread < step.count) {
    const LoraTileEntry entry = p.entries[step.first + thread];
    shared.items[entry.row] = entry.item;
    shared.owned[entry.row] = 1;
  }
  simt::syncthreads();

  const float* dt = p.dt + use.t;
  if (a.aIndex) {
    for (int64_t r = 0; r < a.rank; ++r) {
      const int64_t hit = a.aIndex[r] - column0;
      if (hit < 0 || hit >= T::kColumns) continue;
      InputGradientTiles<Math>::Base::visit(sums, [&](int row, int column, float& first, float& second) {
        const int32_t item = shared.items[row];
        if (item < 0) return;
        if (column == hit) first += dt[item * use.ldT + r];
        if (column + 1 == hit) second += dt[item * use.ldT + r];
      });
    }
    return;
  }
  uint32_t groups = 0;
  SIMT_UNROLL
  for (int i = 0; i < kRowTile; i += 32) {
    const uint32_t owners = simt::ballot(shared.items[i + thread % 32] >= 0);
    groups |= ((owners & 0xffffu ? 1u : 0u) | (owners >> 16 ? 2u : 0u)) << (i / 16);
  }
  typename T::Sums part;
  T::clear(part);
  const TurnedSource rows{linesOf(dt, use.ldT), shared.items, a.rank};
  const MatrixSource matrix{linesOf(a.a, a.aStride), a.rank, p.in, 0, column0};
  multiply<T>(shared.adapter, part, rows, matrix, 0, a.rank, groups);
  SIMT_UNROLL
  for (int i = 0; i < T::kSums; ++i)
    if (shared.items[T::rowAt(i)] >= 0) sums.of[i] += part.of[i];
}

// Elements that dropout takes out of the adapters' part become zeros, the others are scaled.
template <class T>
SIMT_DEV void dropSums(const InputGradient& p, typename T::Sums& sums, const int32_t* owned, int64_t row0,
                       int64_t column0) {
  T::visit(sums, [&](int row, int column, float& first, float& second) {
    if (!owned[row]) return;
    uint32_t words[4];
    const int64_t at = column0 + column;
    dropoutWords(p.dropout.seed, row0 + row, at, words);
    const uint32_t word0 = at % 4 ? words[2] : words[0], word1 = at % 4 ? words[3] : words[1];
    first = word0 < p.dropout.least ? 0.0f : first * p.kept;
    second = word1 < p.dropout.least ? 0.0f : second * p.kept;
  });
}

template <class Math>
__global__ void __launch_bounds__(kTileThreads) inputGradient(InputGradient p) {
  using Tiles = InputGradientTiles<Math>;
  using T = typename Tiles::Base;
  auto& shared = simt::shared<typename Tiles::Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t tile = blockIdx.x, row0 = tile * kRowTile, column0 = int64_t{blockIdx.y} * T::kColumns;
  if (thread < kRowTile) {
    const int64_t row = row0 + thread;
    shared.rows[thread] = row < p.rows ? row : -1;
    shared.scales[thread] = p.scales && row < p.rows ? p.scales[row] : nullptr;
    shared.owned[thread] = 0;
  }
  if (thread < 16) shared.nf4[thread] = kNf4Codes[thread];

  typename T::Sums sums;
  T::clear(sums);
  if (p.steps) {
    for (int64_t s = p.firstSteps[tile]; s < p.firstSteps[tile + 1]; ++s)
      addAdapter<Math>(p, shared, p.steps[s], column0, sums);
    if (p.dropout.least) dropSums<T>(p, sums, shared.owned, row0, column0);
  }
  simt::syncthreads();
  if (p.base.codes) {
    const ScaledSource rows{{p.dY, shared.rows, 0, kRowTile, p.out, 0, {}}, shared.scales};
    const WeightSource base{p.base, shared.nf4, 0, column0};
    multiply<T>(shared.base, sums, rows, base, 0, p.out);
  }
  T::visit(sums, [&](int row, int column, float first, float second) {
    const int64_t at = column0 + column;
    if (shared.rows[row] < 0 || at >= p.in) return;
    const bool both = at + 1 < p.in;
    if (p.identity) {
      const float* scale = shared.scales[row];
      const int64_t from = (row0 + row) * p.dY.ld + at;
      first += elementOf(p.dY, from) * (scale ? scale[at] : 1.0f);
      if (both) second += elementOf(p.dY, from + 1) * (scale ? scale[at + 1] : 1.0f);
    }
    storePair(p.dx, p.dtype, (row0 + row) * p.in + at, both, first, second);
  });
}

}  // namespace rankone::cuda
