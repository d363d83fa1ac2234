// dx = dropout'(sum over a row's adapters of A^T dt) + W^T (d dY): tiles of 128 rows and 128 columns.
//
// The adapters come first: their ranks are one long depth of a product in which each stage is for some of the rows, so
// that what is no number stays with the rows that have it. What dropout leaves of it is where the base's sums begin.
#pragma once
#include <type_traits>

#include "lora_backward.h"
#include "lora_backward_source.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// Some ranks of an adapter, for some rows of a tile.
struct AdapterStep {
  Lines dt;              // of the adapter's items, from the first of these ranks on
  Lines a;               // A from that rank on
  const int32_t* index;  // where A is an index list: all of it
  int64_t ranks;         // from the first of these ranks on
  int64_t items;         // where the rows' items begin
};

struct InputGradient {
  int64_t rows, in, out;
  Lines dY;
  RankoneWeight base;          // codes null: none, or
  int32_t identity;            // W = 1
  const float* const* scales;  // [rows] d of a row, or null; or null where no row has one
  // Steps of tile i: [firstSteps[i], firstSteps[i + 1]), and of adapters whose A is an index list.
  const AdapterStep *steps, *indexSteps;
  const int64_t *firstSteps, *firstIndexSteps;
  const int32_t* items;  // [kRowTile] of the adapter's items; -1: the row has none
  KeptBits kept;
  void* dx;
  int32_t dtype;
};

// dt of a tile's rows, kDepth ranks a step.
template <int kDepth>
struct TurnedSource : PlainSource {
  const AdapterStep* steps;
  const int32_t* items;

  SIMT_DEV int32_t item(int64_t rank, int64_t row) const { return items[steps[rank / kDepth].items + row]; }
  SIMT_DEV bool owns(int64_t rank, int row) const { return item(rank, row) >= 0; }
  template <class Math>
  SIMT_DEV void fetch(int64_t row, int64_t rank, typename Math::Chunk& chunk) const {
    const int32_t i = item(rank, row);
    if (i < 0) return clearChunk(chunk);
    const AdapterStep& step = steps[rank / kDepth];
    loadElements<Math>(step.dt, i, rank % kDepth, step.ranks, chunk);
  }
  SIMT_DEV const char* address(int64_t row, int64_t rank, int& bytes) const {
    const int32_t i = item(rank, row);
    if (i < 0) bytes = 0;
    const AdapterStep& step = steps[rank / kDepth];
    return addressOf(step.dt, i, rank % kDepth, step.ranks, bytes);
  }
};

// The matrices A that go with it.
template <int kDepth>
struct AdapterSource : PlainSource {
  const AdapterStep* steps;
  int64_t in, column0;

  template <class Math>
  SIMT_DEV void fetch(int64_t rank, int64_t column, typename Math::Chunk& chunk) const {
    const AdapterStep& step = steps[rank / kDepth];
    if (rank % kDepth >= step.ranks) return clearChunk(chunk);
    loadElements<Math>(step.a, rank % kDepth, column0 + column, in, chunk);
  }
  SIMT_DEV const char* address(int64_t rank, int64_t column, int& bytes) const {
    const AdapterStep& step = steps[rank / kDepth];
    if (rank % kDepth >= step.ranks) bytes = 0;
    return addressOf(step.a, rank % kDepth, column0 + column, in, bytes);
  }
};

template <class Math>
constexpr int kInputGradientDepth = isF32<Math> ? 16 : 32;

// Ways of dY and of the base: FETCHED are codes. dt has a range of its own, which f16 may not hold: the adapters' part
// is in bf16 then, and float32 where all of it is.
template <class Math, Way kRowsWay, Way kBaseWay>
struct InputGradientTiles {
  static constexpr int kDepth = kInputGradientDepth<Math>;
  static constexpr int kStages = kRowsWay == Way::COPIED && kBaseWay == Way::COPIED ? 4 : 3;
  using Base = Tile<Math, Along::DEPTH, Along::SIDE, kRowTile, 128, kDepth>;
  using Adapter = Tile<std::conditional_t<isF32<Math>, F32Arithmetic, Bf16Arithmetic>, Along::DEPTH, Along::SIDE,
                       kRowTile, 128, kDepth>;
  struct Shared {
    union {
      typename Base::Stage base[kStages];
      typename Adapter::Stage adapter[kStages];
    };
    int64_t rows[kRowTile];
    const float* scales[kRowTile];
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

// sums += dt of an adapter whose A is an index list.
template <class T>
SIMT_DEV void addIndexed(const AdapterStep& step, const int32_t* items, int64_t column0, typename T::Sums& sums) {
  for (int64_t r = 0; r < step.ranks; ++r) {
    const int64_t hit = step.index[r] - column0;
    if (hit < 0 || hit >= T::kColumns) continue;
    T::visit(sums, [&](int row, int column, float& first, float& second) {
      if (column != hit / 2 * 2) return;
      const int64_t item = items[step.items + row];
      if (item >= 0) (hit % 2 ? second : first) += elementOf(step.dt, item * step.dt.ld + r);
    });
  }
}

// Of tiles that are made at the same time, rows and columns lie in a square, so that both are read from L2.
SIMT_DEV void tileOf(int64_t block, int64_t rowTiles, int64_t columnTiles, int64_t& row, int64_t& column) {
  constexpr int64_t kHeight = 16;
  const int64_t first = block / (kHeight * columnTiles) * kHeight, inside = block % (kHeight * columnTiles);
  const int64_t height = rowTiles - first < kHeight ? rowTiles - first : kHeight;
  row = first + inside % height;
  column = inside / height;
}

template <class Math, Way kRowsWay, Way kBaseWay>
__global__ void __launch_bounds__(kTileThreads, isF32<Math> || kBaseWay != Way::COPIED ? 1 : 2)
    inputGradient(InputGradient p) {
  using Tiles = InputGradientTiles<Math, kRowsWay, kBaseWay>;
  using T = typename Tiles::Base;
  auto& shared = simt::shared<typename Tiles::Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  int64_t tile, columnTile;
  tileOf(blockIdx.x, (p.rows + kRowTile - 1) / kRowTile, (p.in + T::kColumns - 1) / T::kColumns, tile, columnTile);
  const int64_t row0 = tile * kRowTile, column0 = columnTile * T::kColumns;
  if (thread < kRowTile) {
    const int64_t row = row0 + thread;
    shared.rows[thread] = row < p.rows ? row : -1;
    shared.scales[thread] = p.scales && row < p.rows ? p.scales[row] : nullptr;
  }
  if (thread < 16) shared.nf4[thread] = kNf4Values[thread];

  typename T::Sums sums;
  T::clear(sums);
  if (p.items) {
    for (int64_t s = p.firstIndexSteps[tile]; s < p.firstIndexSteps[tile + 1]; ++s)
      addIndexed<T>(p.indexSteps[s], p.items, column0, sums);
    using A = typename Tiles::Adapter;
    const AdapterStep* steps = p.steps + p.firstSteps[tile];
    const int64_t ranks = (p.firstSteps[tile + 1] - p.firstSteps[tile]) * A::kDepth;
    typename A::Sums part;
    SIMT_UNROLL
    for (int i = 0; i < T::kSums; ++i) part.of[i] = sums.of[i];
    constexpr Way kWay = isF32<Math> ? Way::MOVED : Way::COPIED;
    multiply<A, Tiles::kStages, kWay, kWay, true>(shared.adapter, part, TurnedSource<A::kDepth>{{}, steps, p.items},
                                                  AdapterSource<A::kDepth>{{}, steps, p.in, column0}, 0, ranks);
    SIMT_UNROLL
    for (int i = 0; i < T::kSums; ++i) sums.of[i] = part.of[i];
    if (p.kept.bits)
      T::visit(sums, [&](int row, int column, float& first, float& second) {
        if (row0 + row >= p.rows || column0 + column >= p.in) return;
        const uint32_t stay = p.kept.at(row0 + row, column0 + column);
        first = stay & 1 ? first * p.kept.factor : 0.0f;
        second = stay & 2 ? second * p.kept.factor : 0.0f;
      });
  }
  simt::syncthreads();
  if (p.base.codes) {
    const ScaledSource rows{{}, {{}, p.dY, shared.rows, 0, kRowTile, p.out, 0, {}}, shared.scales};
    const CodesSource codes{p.base, shared.nf4, 0, column0};
    const std::conditional_t<kBaseWay == Way::FETCHED, CodesSource, WeightSource> base{codes};
    multiply<T, Tiles::kStages, kRowsWay, kBaseWay>(shared.base, sums, rows, base, 0, p.out);
  }
  T::visit(sums, [&](int row, int column, float first, float second) {
    const int64_t at = column0 + column;
    if (row0 + row >= p.rows || at >= p.in) return;
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
