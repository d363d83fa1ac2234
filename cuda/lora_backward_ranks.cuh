// What passes between A and B on the way back. With t = A x', h = phi(t + a), z = M h, f = gate scale, u = B^T dY:
//
//   w = f z   du = f u   dh = M^T du   dt = phi'(t + a) dh   dgate = scale (u z + c dY)
//
// Products first, as sums over pieces of kDepthOfSums, then the rest item by item.
#pragma once
#include "lora_backward.h"
#include "lora_backward_source.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr int kKeepThreads = 128;

// A thread makes a word of the bits.
__global__ void __launch_bounds__(kKeepThreads) keepBits(Dropout dropout, int64_t rows, int64_t words, uint32_t* bits) {
  const int64_t i = int64_t{blockIdx.x} * kKeepThreads + threadIdx.x;
  if (i >= rows * words) return;
  uint32_t word = 0;
  SIMT_UNROLL
  for (int k = 0; k < 8; ++k) word |= keptOf(dropout, i / words, i % words * 8 + k) << (4 * k);
  bits[i] = word;
}

struct RankProducts {
  Lines rows;  // dY [rows, depth], or x
  int64_t depth;
  KeptBits kept;
  const LoraUse* uses;
  const LoraItem* items;
  const LoraItemTile* tiles;
  int64_t floats;  // of all items
  float* partial;  // [pieces of the depth, floats]
};

// B's rows are steps, A's are ranks.
enum class RankSide { U, T };

template <class Math, RankSide kSide, Way kWay>
struct RankTile {
  static constexpr int kDepth = isF32<Math> ? 32 : 64, kStages = kWay == Way::COPIED ? 4 : 2;
  using T = Tile<Math, Along::DEPTH, kSide == RankSide::U ? Along::SIDE : Along::DEPTH, kItemTile, 64, kDepth>;
  struct Shared {
    typename T::Stage stages[kStages];
    int64_t rows[kItemTile];
  };
};

// u or t of a tile of items, 64 ranks, one piece of the depth.
// kWay: of the rows.
template <class Math, RankSide kSide, Way kWay>
__global__ void __launch_bounds__(kTileThreads) rankProducts(RankProducts p) {
  using Of = RankTile<Math, kSide, kWay>;
  using T = typename Of::T;
  auto& shared = simt::shared<typename Of::Shared>();
  const LoraItemTile tile = p.tiles[blockIdx.x];
  const LoraUse& use = p.uses[tile.use];
  const RankoneAdapter& a = use.adapter;
  constexpr bool kB = kSide == RankSide::U;
  const int64_t ranks = kB ? a.midRank : a.rank, rank0 = int64_t{blockIdx.y} * 64;
  if (rank0 >= ranks) return;
  const int64_t begin = int64_t{blockIdx.z} * kDepthOfSums;
  const int64_t end = begin + kDepthOfSums < p.depth ? begin + kDepthOfSums : p.depth;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kItemTile) shared.rows[thread] = thread < tile.count ? p.items[use.first + tile.first + thread].row : -1;

  const GatheredSource rows{{}, p.rows, shared.rows, 0, kItemTile, p.depth, 0, p.kept};
  const Lines factor = kB ? linesOf(a.b, a.bStride) : linesOf(a.a, a.aStride);
  const MatrixSource matrix =
      kB ? MatrixSource{{}, factor, p.depth, ranks, 0, rank0} : MatrixSource{{}, factor, ranks, p.depth, rank0, 0};
  typename T::Sums sums;
  T::clear(sums);
  const int columns = static_cast<int>(ranks - rank0 < 64 ? ranks - rank0 : 64);
  multiply<T, Of::kStages, kWay, Way::FETCHED>(shared.stages, sums, rows, matrix, begin, end, kItemTile, columns);

  const int64_t ld = kB ? use.ldW : use.ldT;
  float* to = p.partial + int64_t{blockIdx.z} * p.floats + (kB ? use.w : use.t) + tile.first * ld + rank0;
  T::visit(sums, [&](int row, int column, float first, float second) {
    if (row >= tile.count) return;
    if (column < columns) to[row * ld + column] = first;
    if (column + 1 < columns) to[row * ld + column + 1] = second;
  });
}

struct RankTurn {
  const LoraUse* uses;
  const LoraItem* items;
  int64_t count;
  Lines x, dY;
  int64_t out;
  KeptBits kept;
  const float *partialT, *partialU;  // sums of piecesT and piecesU, floatsT and floatsU apart
  int64_t piecesT, piecesU, floatsT, floatsU;
  const float* given;  // t of the forward [rows, perRow, tRanks], in place of partialT and of what index lists read
  int64_t tRanks;
  int32_t wantsT;  // 0: t is of no consequence
  const float* gates;
  float *t, *h, *u, *w;      // of items: dt, h, du and w
  uint16_t *dtHalf, *wHalf;  // dt and w as bf16, as t and w lie; or null
  float *weights, *dh;       // as t, for SelfTopK; or null where nobody has it
  float* factors;            // [items] f
  float* scales;             // [items] what they add to dscale, or null
  float* dGates;             // by slots, or null
};

SIMT_DEV float warpSum(float x) {
  SIMT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += simt::shfl_xor(x, mask);
  return x;
}
SIMT_DEV double warpSum(double x) {
  SIMT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += simt::shfl_xor(x, mask);
  return x;
}

// The normal distribution's share below p. 1 + erf would lose what is left of it far below zero.
SIMT_DEV float normalBelow(float p) { return 0.5f * erfcf(p * -0.70710678f); }

// Which ranks SelfTopK lets pass, and their softmax, by a warp: weights, 0 for the others. |p|.
SIMT_DEV double selfGates(const float* p, int64_t ranks, int64_t active, float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double square = 0;
  for (int64_t i = lane; i < ranks; i += 32) square += static_cast<double>(p[i]) * p[i];
  const double norm = sqrt(warpSum(square));
  for (int64_t i = lane; i < ranks; i += 32) weights[i] = norm != norm ? static_cast<float>(norm) : 0.0f;
  if (!(norm > 0)) return norm;
  float total = 0, top = 0;
  for (int64_t n = 0; n < (active < ranks ? active : ranks); ++n) {
    // the largest that is left, of equal ones the first; lanes look at what they write
    int best = -1;
    float value = 0;
    for (int64_t i = lane; i < ranks; i += 32)
      if (weights[i] == 0 && (best < 0 || p[i] > value)) best = static_cast<int>(i), value = p[i];
    SIMT_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
      const int other = simt::shfl_xor(best, mask);
      const float otherValue = simt::shfl_xor(value, mask);
      if (other >= 0 && (best < 0 || otherValue > value || (otherValue == value && other < best)))
        best = other, value = otherValue;
    }
    const float share = static_cast<float>(value / norm);
    if (n == 0) top = share;
    const float weight = expf(share - top);
    if (best % 32 == lane) weights[best] = weight;
    total += weight;
  }
  for (int64_t i = lane; i < ranks; i += 32) weights[i] /= total;
  return norm;
}

// The gradient at p of what phi makes of it, for gradients dh: ranks `lane`, lane + 32, ... in place of p.
SIMT_DEV void selfGatesGradient(float* p, const float* dh, const float* weights, double norm, int64_t ranks) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double mean = 0, along = 0;
  for (int64_t i = lane; i < ranks; i += 32)
    if (weights[i] != 0) mean += static_cast<double>(weights[i]) * dh[i] * p[i];
  mean = warpSum(mean);
  for (int64_t i = lane; i < ranks; i += 32)
    if (weights[i] != 0) along += weights[i] * (dh[i] * static_cast<double>(p[i]) - mean) * p[i];
  along = norm == 0 ? 0 : warpSum(along);
  for (int64_t i = lane; i < ranks; i += 32) {
    const double own = weights[i] == 0 ? 0 : weights[i] * (dh[i] * static_cast<double>(p[i]) - mean);
    const double share = norm == 0 ? 0 : (own - p[i] * (along / norm) / norm) / norm;
    p[i] = static_cast<float>(share + (weights[i] == 0 ? 0.0f : weights[i] * dh[i]));
  }
}

SIMT_DEV float activated(int32_t activation, float p) {
  switch (activation) {
    case RANKONE_ACT_RELU: return p < 0 ? 0.0f : p;
    case RANKONE_ACT_GELU: return p * normalBelow(p);
    case RANKONE_ACT_SILU: return p / (1.0f + expf(-p));
    default: return p;
  }
}

SIMT_DEV float activationGradient(int32_t activation, float p, float dh) {
  switch (activation) {
    case RANKONE_ACT_RELU: return p <= 0 ? 0.0f : dh;
    case RANKONE_ACT_GELU: return dh * (normalBelow(p) + p * 0.39894228f * expf(-0.5f * p * p));
    case RANKONE_ACT_SILU: {
      const float s = 1.0f / (1.0f + expf(-p));
      return dh * s * (1.0f + p * (1.0f - s));
    }
    default: return dh;
  }
}

SIMT_DEV float piecesSum(const float* from, int64_t pieces, int64_t apart) {
  float sum = 0;
  for (int64_t i = 0; i < pieces; ++i) sum += from[i * apart];
  return sum;
}

constexpr int kTurnWarps = 4;

// An item for each warp.
__global__ void __launch_bounds__(32 * kTurnWarps) turnRanks(RankTurn g) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t index = int64_t{blockIdx.x} * kTurnWarps + threadIdx.x / 32;
  if (index >= g.count) return;
  const LoraItem item = g.items[index];
  const LoraUse& use = g.uses[item.use];
  const RankoneAdapter& a = use.adapter;
  const int64_t i = index - use.first, atT = use.t + i * use.ldT, atW = use.w + i * use.ldW;
  float *p = g.t + atT, *h = g.h + atT, *u = g.u + atW, *w = g.w + atW;

  // p = t + a
  for (int64_t r = lane; r < a.rank; r += 32) {
    float t = 0;
    if (!g.wantsT) {
    } else if (g.given) {
      t = g.given[item.slot * g.tRanks + r];
    } else if (a.aIndex) {
      const int64_t column = a.aIndex[r];
      if (!g.kept.bits || (g.kept.at(item.row, column) & 1))
        t = g.kept.factor * elementOf(g.x, item.row * g.x.ld + column);
    } else {
      t = g.kept.factor * piecesSum(g.partialT + atT + r, g.piecesT, g.floatsT);
    }
    p[r] = a.rankBias ? t + a.rankBias[r] : t;
  }
  for (int64_t q = lane; q < a.midRank; q += 32)
    u[q] = a.bIndex ? elementOf(g.dY, item.row * g.dY.ld + a.bIndex[q])
                    : piecesSum(g.partialU + atW + q, g.piecesU, g.floatsU);

  // h = phi(p), z = M h
  const bool selfGated = a.activation == RANKONE_ACT_SELF_TOP_K;
  float *weights = nullptr, *dh = nullptr;
  double norm = 0;
  if (selfGated) {
    weights = g.weights + atT;
    dh = g.dh + atT;
    norm = selfGates(p, a.rank, a.activeRanks, weights);
  }
  for (int64_t r = lane; r < a.rank; r += 32)
    h[r] = !selfGated ? activated(a.activation, p[r]) : weights[r] == 0 ? 0.0f : weights[r] * p[r];
  simt::syncwarp();
  float dot = 0;
  for (int64_t q = lane; q < a.midRank; q += 32) {
    float z = 0;
    if (a.mid)
      for (int64_t r = 0; r < a.rank; ++r) z = fmaf(a.mid[q * a.rank + r], h[r], z);
    else
      z = a.midDiagonal ? a.midDiagonal[q] * h[q] : h[q];
    w[q] = z;
    dot = fmaf(u[q], z, dot);
  }
  const float gate = g.gates ? g.gates[item.slot] : 1.0f, factor = gate * a.scale;
  if (g.dGates || g.scales) {
    if (a.outBias)
      for (int64_t n = lane; n < g.out; n += 32) dot = fmaf(elementOf(g.dY, item.row * g.dY.ld + n), a.outBias[n], dot);
    dot = warpSum(dot);
    if (lane == 0 && g.dGates) g.dGates[item.slot] = a.scale * dot;
    if (lane == 0 && g.scales) g.scales[index] = gate * dot;
  }
  if (lane == 0) g.factors[index] = factor;
  for (int64_t q = lane; q < a.midRank; q += 32) {
    u[q] *= factor;
    w[q] *= factor;
    if (g.wHalf) g.wHalf[atW + q] = simt::f32_to_bf16(w[q]);
  }
  simt::syncwarp();

  // dh = M^T du, dt
  for (int64_t r = lane; r < a.rank; r += 32) {
    float d = 0;
    if (a.mid)
      for (int64_t q = 0; q < a.midRank; ++q) d = fmaf(u[q], a.mid[q * a.rank + r], d);
    else
      d = a.midDiagonal ? a.midDiagonal[r] * u[r] : u[r];
    if (selfGated)
      dh[r] = d;
    else
      p[r] = activationGradient(a.activation, p[r], d);
  }
  if (selfGated) selfGatesGradient(p, dh, weights, norm, a.rank);
  if (g.dtHalf)
    for (int64_t r = lane; r < a.rank; r += 32) g.dtHalf[atT + r] = simt::f32_to_bf16(p[r]);
}

// Matrices A that do not stand there in bf16, rows aligned, as copies that do.
struct AdapterCopy {
  Lines from;
  int64_t ranks, columns, ld;
  uint16_t* to;
};

constexpr int kCopyThreads = 256;

__global__ void __launch_bounds__(kCopyThreads) copyAdapters(const AdapterCopy* copies) {
  const AdapterCopy j = copies[blockIdx.x];
  const int64_t stride = int64_t{gridDim.y} * kCopyThreads;
  for (int64_t i = int64_t{blockIdx.y} * kCopyThreads + threadIdx.x; i < j.ranks * j.columns; i += stride) {
    const int64_t line = i / j.columns, column = i % j.columns;
    j.to[line * j.ld + column] = simt::f32_to_bf16(elementOf(j.from, line * j.from.ld + column));
  }
}

}  // namespace rankone::cuda
