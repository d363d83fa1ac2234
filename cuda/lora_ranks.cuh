// What stands between A and B: bias, activation, mixing and scale of a row's few ranks, by one warp.
#pragma once
#include "lora_forward_args.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

template <class T>
SIMT_DEV T warpSum(T v) {
  SIMT_UNROLL for (int mask = 16; mask > 0; mask /= 2) v += simt::shfl_xor(v, mask);
  return v;
}

// p becomes its self-gated form: of s = p / |p| the `active` largest (of equal ones the first) get the weights
// softmax(s). weights: scratch of as many, of this warp alone. p is the warp's own memory too.
SIMT_DEV void selfGate(float* p, float* weights, int64_t ranks, int64_t active) {
  const int lane = threadIdx.x % 32;
  double square = 0;
  float top = -INFINITY;
  for (int64_t i = lane; i < ranks; i += 32) {
    square += static_cast<double>(p[i]) * p[i];
    top = p[i] > top ? p[i] : top;
  }
  // float32 would not hold every square
  const double norm = sqrt(warpSum(square));
  SIMT_UNROLL for (int mask = 16; mask > 0; mask /= 2) {
    const float other = simt::shfl_xor(top, mask);
    top = other > top ? other : top;
  }
  const float share = static_cast<float>(top / norm);
  float total = 0;
  for (int64_t i = lane; i < ranks; i += 32) {
    int64_t before = 0;
    for (int64_t j = 0; j < ranks; ++j) before += p[j] > p[i] || (p[j] == p[i] && j < i) ? 1 : 0;
    weights[i] = before < active && norm > 0 ? expf(static_cast<float>(p[i] / norm) - share) : 0;
    total += weights[i];
  }
  total = warpSum(total);
  simt::syncwarp();
  for (int64_t i = lane; i < ranks; i += 32) {
    const float weight = norm > 0 ? weights[i] / total : static_cast<float>(norm);  // 0, or what is no number
    p[i] = weight == 0 ? 0 : weight * p[i];
  }
  simt::syncwarp();
}

// The normal distribution's share below p. 1 + erf would lose what is left of it far below zero.
SIMT_DEV float normalBelow(float p) { return 0.5f * erfcf(p * -0.70710678f); }

SIMT_DEV float activateRank(float p, int32_t activation) {
  switch (activation) {
    case RANKONE_ACT_RELU: return p < 0 ? 0 : p;
    case RANKONE_ACT_GELU: return p * normalBelow(p);
    case RANKONE_ACT_SILU: return p / (1 + expf(-p));
    default: return p;
  }
}

SIMT_DEV bool mixesRanks(const RankoneAdapter& a) { return a.mid || a.activation == RANKONE_ACT_SELF_TOP_K; }

SIMT_DEV float rankFactor(const LoraForwardArgs& args, const RankoneAdapter& a, uint32_t pair) {
  return (args.gates ? args.gates[pair] : 1.0f) * a.scale;
}

// phi(t + a) of one rank, but for the gates that need all of them.
SIMT_DEV float activatedRank(const LoraForwardArgs& args, const RankoneAdapter& a, int64_t row, uint32_t pair,
                             int64_t i) {
  float* t = args.t + pair * args.tStride;
  if (a.aIndex) {
    const int64_t column = a.aIndex[i];
    const bool stays =
        !args.dropout.least || (keptOf(args.dropout, row, column / 4) >> static_cast<int>(column % 4) & 1);
    t[i] = stays ? loadFloat(args.x.data, args.x.dtype, row * args.in + column) * args.dropout.kept : 0;
  }
  return activateRank(a.rankBias ? t[i] + a.rankBias[i] : t[i], a.activation);
}

// w = gate scale M phi(t + a) of one rank where M is diagonal; zeros behind the last rank.
SIMT_DEV void finishRank(const LoraForwardArgs& args, const RankoneAdapter& a, int64_t row, uint32_t pair, int64_t i) {
  float w = 0;
  if (i < a.rank) {
    const float value = activatedRank(args, a, row, pair, i);
    w = rankFactor(args, a, pair) * (a.midDiagonal ? a.midDiagonal[i] * value : value);
  }
  args.w[pair * args.wStride + i] = w;
}

// The same of all a row's ranks, by the whole warp, where they are mixed.
SIMT_DEV void finishRanks(const LoraForwardArgs& args, const RankoneAdapter& a, int64_t row, uint32_t pair) {
  const int lane = threadIdx.x % 32;
  const float factor = rankFactor(args, a, pair);
  float* w = args.w + pair * args.wStride;
  float* p = args.p + pair * args.wStride;
  for (int64_t i = lane; i < a.rank; i += 32) p[i] = activatedRank(args, a, row, pair, i);
  simt::syncwarp();
  if (a.activation == RANKONE_ACT_SELF_TOP_K) selfGate(p, w, a.rank, a.activeRanks);
  if (a.mid) {
    for (int64_t q = 0; q < a.midRank; ++q) {
      float sum = 0;
      for (int64_t i = lane; i < a.rank; i += 32) sum = fmaf(a.mid[q * a.rank + i], p[i], sum);
      sum = warpSum(sum);
      if (lane == 0) w[q] = factor * sum;
    }
  } else {
    for (int64_t q = lane; q < a.midRank; q += 32) w[q] = factor * (a.midDiagonal ? a.midDiagonal[q] * p[q] : p[q]);
  }
  const int64_t q = a.midRank + lane;
  if (q < (a.midRank + 3) / 4 * 4) w[q] = 0;
}

}  // namespace rankone::cuda
