// Gradients that are sums over rows: dA = dt^T x', dB = dY^T w, dM = du^T h, those of vectors, and of d, which needs W
// x.
//
// Every sum is made over pieces of kItemsOfSums (or fewer) of an adapter's own items in ascending order, then over the
// pieces.
#pragma once
#include "lora_backward.h"
#include "lora_backward_source.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// to[r ldR + n ldN] = factor sum over items i of ranks[i][r] rows[i][n], r < ranks, n < columns.
struct MatrixSum {
  Lines ranks;  // of the piece's items
  int64_t rankCount, firstRank;
  Lines rows;
  const int64_t* gathered;  // rows of the piece's items; null: they are firstRow, firstRow + 1, ...
  int64_t firstRow, count, columns;
  KeptBits kept;
  float* to;
  int64_t ldR, ldN;
  float factor;
};

constexpr int kSumRanks = 64, kSumColumns = 128;

template <class Math, Way kWay>
struct MatrixSumTile {
  static constexpr int kStages = kWay == Way::COPIED ? 4 : 2;
  using T = Tile<Math, Along::SIDE, Along::SIDE, kSumRanks, kSumColumns, 32>;
  struct Shared {
    typename T::Stage stages[kStages];
  };
};

// kWay: of ranks and rows.
template <class Math, Way kWay>
__global__ void __launch_bounds__(kTileThreads) sumMatrices(const MatrixSum* jobs) {
  using Of = MatrixSumTile<Math, kWay>;
  using T = typename Of::T;
  auto& shared = simt::shared<typename Of::Shared>();
  const MatrixSum j = jobs[blockIdx.x];
  const int64_t column0 = int64_t{blockIdx.y} * kSumColumns;
  if (column0 >= j.columns) return;
  const int64_t left = j.rankCount - j.firstRank, wide = j.columns - column0;
  const int ranks = static_cast<int>(left < kSumRanks ? left : kSumRanks);
  const int columns = static_cast<int>(wide < kSumColumns ? wide : kSumColumns);
  const MatrixSource a{{}, j.ranks, j.count, j.rankCount, 0, j.firstRank};
  const GatheredSource b{{}, j.rows, j.gathered, j.firstRow, j.count, j.columns, column0, j.kept};
  typename T::Sums sums;
  T::clear(sums);
  multiply<T, Of::kStages, kWay, kWay>(shared.stages, sums, a, b, 0, j.count, ranks, columns);
  T::visit(sums, [&](int rank, int column, float first, float second) {
    if (rank >= ranks || column >= columns) return;
    float* to = j.to + (j.firstRank + rank) * j.ldR + (column0 + column) * j.ldN;
    to[0] = first * j.factor;
    if (column + 1 < columns) to[j.ldN] = second * j.factor;
  });
}

// to[n] = sum over items i, from `first` on, of factors[i] x[i][n] y[i][n]; factors and y may be absent.
struct ColumnSum {
  Lines x, y;
  const int64_t *xRows, *yRows;  // rows of the items; null: they lie one after the other
  const float* factors;
  int64_t first, count, columns;
  float* to;
};

constexpr int kColumnThreads = 128;

__global__ void __launch_bounds__(kColumnThreads) sumColumns(const ColumnSum* jobs) {
  const ColumnSum j = jobs[blockIdx.x];
  const int64_t column = int64_t{blockIdx.y} * kColumnThreads + threadIdx.x;
  if (column >= j.columns) return;
  constexpr int64_t kRun = 16;  // short chains lose less
  float sum = 0;
  const int64_t end = j.first + j.count;
  for (int64_t i0 = j.first; i0 < end; i0 += kRun) {
    float run = 0;
    for (int64_t i = i0; i < end && i < i0 + kRun; ++i) {
      float v = elementOf(j.x, (j.xRows ? j.xRows[i] : i) * j.x.ld + column);
      if (j.y.data) v *= elementOf(j.y, (j.yRows ? j.yRows[i] : i) * j.y.ld + column);
      run = j.factors ? fmaf(j.factors[i], v, run) : run + v;
    }
    sum += run;
  }
  j.to[column] = sum;
}

// Of a tile of an adapter's items: to[n] = sum of dY[i][n] (W x_i)[n].
struct BaseScaleSums {
  Lines x, dY;
  RankoneWeight base;
  const LoraUse* uses;
  const int64_t* itemRows;  // of all items
  const LoraItemTile* tiles;
  float* to;  // [tiles, out]
};

template <class Math>
struct BaseScaleTile {
  static constexpr int kDepth = isF32<Math> ? 16 : 32;
  using T = Tile<Math, Along::DEPTH, Along::DEPTH, kRowTile, 128, kDepth>;
  struct Shared {
    union {
      typename T::Stage stages[2];
      float products[kRowTile][128 + 4];
    };
    int64_t rows[kRowTile];
    float nf4[16];
  };
};

template <class Math>
__global__ void __launch_bounds__(kTileThreads) sumBaseScales(BaseScaleSums p) {
  using T = typename BaseScaleTile<Math>::T;
  auto& shared = simt::shared<typename BaseScaleTile<Math>::Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  const LoraItemTile tile = p.tiles[blockIdx.x];
  const int64_t column0 = int64_t{blockIdx.y} * T::kColumns;
  if (thread < kRowTile)
    shared.rows[thread] = thread < tile.count ? p.itemRows[p.uses[tile.use].first + tile.first + thread] : -1;
  if (thread < 16) shared.nf4[thread] = kNf4Values[thread];

  const GatheredSource rows{{}, p.x, shared.rows, 0, kRowTile, p.base.in, 0, {}};
  const WeightSource base{{p.base, shared.nf4, column0, 0}};
  typename T::Sums sums;
  T::clear(sums);
  simt::syncthreads();
  multiply<T, 2, Way::FETCHED, Way::FETCHED>(shared.stages, sums, rows, base, 0, p.base.in);
  simt::syncthreads();  // products lie where the stages were
  T::visit(sums, [&](int row, int column, float first, float second) {
    const int64_t from = shared.rows[row] * p.dY.ld + column0 + column;
    const bool there = row < tile.count;
    shared.products[row][column] = there && column0 + column < p.base.out ? first * elementOf(p.dY, from) : 0.0f;
    shared.products[row][column + 1] =
        there && column0 + column + 1 < p.base.out ? second * elementOf(p.dY, from + 1) : 0.0f;
  });
  simt::syncthreads();
  if (thread >= T::kColumns || column0 + thread >= p.base.out) return;
  float sum = 0;
  for (int row = 0; row < tile.count; row += 16) {
    float run = 0;
    for (int i = row; i < row + 16; ++i) run += shared.products[i][thread];
    sum += run;
  }
  p.to[blockIdx.x * p.base.out + column0 + thread] = sum;
}

// to [lines, toColumns] = the sum of the pieces [lines, columns], which lie `apart`; zeros in the other columns.
struct PieceSum {
  const float* from;
  int64_t pieces, apart;
  int64_t lines, columns, toColumns;
  float* to;
};

constexpr int kPieceThreads = 256;

__global__ void __launch_bounds__(kPieceThreads) sumPieces(const PieceSum* jobs) {
  const PieceSum j = jobs[blockIdx.x];
  const int64_t size = j.lines * j.toColumns, stride = int64_t{gridDim.y} * kPieceThreads;
  for (int64_t i = int64_t{blockIdx.y} * kPieceThreads + threadIdx.x; i < size; i += stride) {
    const int64_t line = i / j.toColumns, column = i % j.toColumns;
    float sum = 0;
    if (column < j.columns)
      for (int64_t k = 0; k < j.pieces; ++k) sum += j.from[k * j.apart + line * j.columns + column];
    j.to[i] = sum;
  }
}

}  // namespace rankone::cuda
