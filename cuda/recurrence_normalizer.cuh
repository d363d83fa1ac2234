// o_t = S^T q / (z_t^T q + 1e-10) with z the running sum of keys, and what its gradient adds: see
// cpp/kernels/recurrence_normalizer.inl for the formulas. z, the divisors and sums over tokens are float64.
//
// Tokens are walked chunk by chunk, all chunks at once: z of a token is z at its chunk's start plus the sum of the
// chunk's keys up to it, whatever the rest of the batch.
#pragma once
#include "recurrence.h"
#include "recurrence_curves.cuh"

namespace rankone::cuda {

constexpr int kNormalizerThreads = 128;
constexpr int kLaneValues = 8;  // of a row of up to 256 that lies across a warp
constexpr double kDivisorEpsilon = 1e-10;

struct NormalizerArgs {
  int64_t T, H;
  int32_t K;
  const void *q, *k;  // [B,T,H,K]
  int32_t dtype, keysFromGates, qkL2norm;
  const Chunk* chunks;  // null: chunk c is the whole of sequence c, whose z begins as initialZ
  int64_t chunkCount;
  const int64_t* firstChunks;  // [N+1]
  const int32_t* stateRows;    // [N] or null
  const float* initialZ;       // [rows,H,K] or null
  float* finalZ;               // or null; may be the same memory
  double* sums;                // [chunks,H,K] sums of keys, then z at the chunks' starts
  float* scales;               // [B*T,H] 1 / (z^T q + 1e-10)
  // Of the gradient:
  float *dq, *dk;        // [B,T,H,K]
  double* dDivisors;     // [B*T,H]
  double* reverseSums;   // [chunks,H,K] sums of dDivisor q, then those of all later chunks with dFinalZ
  const float* dFinalZ;  // [N,H,K] or null
  float* dInitialZ;      // or null
};

// A warp's chunk and key head, with K across the lanes.
struct NormalizerWalk {
  const NormalizerArgs& a;
  int lane;
  int64_t chunk, h, token, sequence;
  int32_t tokens;

  SIMT_DEV explicit NormalizerWalk(const NormalizerArgs& args) : a(args) {
    lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t task = static_cast<int64_t>(blockIdx.x) * (kNormalizerThreads / 32) + threadIdx.x / 32;
    chunk = task / a.H;
    h = task % a.H;
    if (!inside()) return;
    token = a.chunks ? a.chunks[chunk].token : chunk * a.T;
    tokens = a.chunks ? a.chunks[chunk].tokens : static_cast<int32_t>(a.T);
    sequence = a.chunks ? a.chunks[chunk].sequence : chunk;
  }
  SIMT_DEV bool inside() const { return chunk < a.chunkCount; }

  template <class F>
  SIMT_DEV void overLanes(F&& f) const {
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i)
      if (32 * i + lane < a.K) f(i, 32 * i + lane);
  }
  SIMT_DEV int64_t rowOf(int t) const { return (token + t) * a.H + h; }
  SIMT_DEV int64_t sumsAt() const { return (chunk * a.H + h) * a.K; }

  // A row as the recurrence uses it; zeros behind K.
  SIMT_DEV void read(const void* from, bool keys, int t, float (&x)[kLaneValues]) const {
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) x[i] = 0;
    if (t < 0 || t >= tokens) return;
    overLanes([&](int i, int at) { x[i] = elementAt(from, a.dtype, rowOf(t) * a.K + at); });
    if (keys && a.keysFromGates) {
      SIMT_UNROLL
      for (int i = 0; i < kLaneValues; ++i) x[i] = keyOfGate(x[i]);
    }
    if (!a.qkL2norm) return;
    const float by = inverseNorm(x);
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) x[i] *= by;
  }

  // z before the chunk's first token.
  SIMT_DEV void start(double (&z)[kLaneValues]) const {
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) z[i] = 0;
    if (a.sums)
      overLanes([&](int i, int at) { z[i] = a.sums[sumsAt() + at]; });
    else if (a.initialZ)
      overLanes([&](int i, int at) { z[i] = a.initialZ[stateRow() + at]; });
  }
  SIMT_DEV int64_t stateRow() const { return ((a.stateRows ? a.stateRows[sequence] : sequence) * a.H + h) * a.K; }
};

static __global__ void __launch_bounds__(kNormalizerThreads) normalizerSums(const NormalizerArgs args) {
  const NormalizerWalk walk(args);
  if (!walk.inside()) return;
  double sum[kLaneValues] = {};
  float k[kLaneValues], next[kLaneValues];
  walk.read(args.k, true, 0, next);
  SIMT_NOUNROLL
  for (int t = 0; t < walk.tokens; ++t) {
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) k[i] = next[i];
    walk.read(args.k, true, t + 1, next);
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) sum[i] += k[i];
  }
  walk.overLanes([&](int i, int at) { args.sums[walk.sumsAt() + at] = sum[i]; });
}

// A thread takes one channel of one sequence and key head through its chunks, or in reverse through what follows them.
static __global__ void __launch_bounds__(kNormalizerThreads)
    normalizerPrefix(const NormalizerArgs args, const int64_t channels, const int32_t reverse) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNormalizerThreads + threadIdx.x;
  if (i >= channels) return;
  const int64_t width = args.H * args.K, sequence = i / width, at = i % width;
  const int64_t row = args.stateRows ? args.stateRows[sequence] : sequence;
  const int64_t first = args.firstChunks[sequence], end = args.firstChunks[sequence + 1], count = end - first;
  const float* from = reverse ? args.dFinalZ : args.initialZ;
  float* to = reverse ? args.dInitialZ : args.finalZ;
  double* sums = reverse ? args.reverseSums : args.sums;
  double z = from ? from[(reverse ? sequence : row) * width + at] : 0;
  constexpr int kAhead = 8;
  SIMT_NOUNROLL
  for (int64_t c = 0; c < count; c += kAhead) {
    double x[kAhead];
    SIMT_UNROLL
    for (int j = 0; j < kAhead; ++j)
      x[j] = c + j < count ? sums[(reverse ? end - 1 - c - j : first + c + j) * width + at] : 0;
    SIMT_UNROLL
    for (int j = 0; j < kAhead; ++j) {
      if (c + j < count) sums[(reverse ? end - 1 - c - j : first + c + j) * width + at] = z;
      z += x[j];
    }
  }
  if (to) to[(reverse ? sequence : row) * width + at] = static_cast<float>(z);
}

static __global__ void __launch_bounds__(kNormalizerThreads) normalizerDivisors(const NormalizerArgs args) {
  const NormalizerWalk walk(args);
  if (!walk.inside()) return;
  double start[kLaneValues], sum[kLaneValues] = {};
  float q[kLaneValues], k[kLaneValues], nextQ[kLaneValues], nextK[kLaneValues];
  walk.start(start);
  walk.read(args.k, true, 0, nextK);
  walk.read(args.q, false, 0, nextQ);
  SIMT_NOUNROLL
  for (int t = 0; t < walk.tokens; ++t) {
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) k[i] = nextK[i], q[i] = nextQ[i];
    walk.read(args.k, true, t + 1, nextK);
    walk.read(args.q, false, t + 1, nextQ);
    double dot = 0;
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) {
      sum[i] += k[i];
      dot += (start[i] + sum[i]) * q[i];
    }
    dot = warpSum(dot);
    if (walk.lane == 0) args.scales[walk.rowOf(t)] = static_cast<float>(1 / (dot + kDivisorEpsilon));
  }
  if (args.finalZ && !args.sums)
    walk.overLanes([&](int i, int at) { args.finalZ[walk.stateRow() + at] = static_cast<float>(start[i] + sum[i]); });
}

// dDivisor_t = -(q_t . dq_t) / divisor_t; dq_t += dDivisor_t z_t.
static __global__ void __launch_bounds__(kNormalizerThreads) normalizerQueryGradients(const NormalizerArgs args) {
  const NormalizerWalk walk(args);
  if (!walk.inside()) return;
  double start[kLaneValues], sum[kLaneValues] = {}, reverse[kLaneValues] = {};
  walk.start(start);
  SIMT_NOUNROLL
  for (int t = 0; t < walk.tokens; ++t) {
    float q[kLaneValues], k[kLaneValues], dq[kLaneValues] = {};
    walk.read(args.k, true, t, k);
    walk.read(args.q, false, t, q);
    float* gradients = args.dq + walk.rowOf(t) * args.K;
    walk.overLanes([&](int i, int at) { dq[i] = gradients[at]; });
    double dot = 0;
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) dot += static_cast<double>(q[i]) * dq[i];
    const double dDivisor = -warpSum(dot) * args.scales[walk.rowOf(t)];
    if (walk.lane == 0) args.dDivisors[walk.rowOf(t)] = dDivisor;
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) {
      sum[i] += k[i];
      reverse[i] += dDivisor * q[i];
    }
    walk.overLanes([&](int i, int at) { gradients[at] = static_cast<float>(dq[i] + dDivisor * (start[i] + sum[i])); });
  }
  walk.overLanes([&](int i, int at) { args.reverseSums[walk.sumsAt() + at] = reverse[i]; });
}

// dk_s += sum over t >= s of dDivisor_t q_t, and dFinalZ.
static __global__ void __launch_bounds__(kNormalizerThreads) normalizerKeyGradients(const NormalizerArgs args) {
  const NormalizerWalk walk(args);
  if (!walk.inside()) return;
  double later[kLaneValues] = {}, sum[kLaneValues] = {};
  walk.overLanes([&](int i, int at) { later[i] = args.reverseSums[walk.sumsAt() + at]; });
  SIMT_NOUNROLL
  for (int t = walk.tokens - 1; t >= 0; --t) {
    float q[kLaneValues];
    walk.read(args.q, false, t, q);
    const double dDivisor = args.dDivisors[walk.rowOf(t)];
    SIMT_UNROLL
    for (int i = 0; i < kLaneValues; ++i) sum[i] += dDivisor * q[i];
    float* gradients = args.dk + walk.rowOf(t) * args.K;
    walk.overLanes([&](int i, int at) { gradients[at] = static_cast<float>(gradients[at] + (later[i] + sum[i])); });
  }
}

// Rows of V values of some chunks' tokens times their scale, in place or into float32.
struct ScaleArgs {
  const void* from;  // [B,T,HV,V]
  int32_t fromDType, toDType;
  void* to;
  const float* scales;  // [B*T,H]
  int64_t H, HV;
  int32_t V;
  const Chunk* chunks;
};

// A block takes a chunk and value head.
static __global__ void __launch_bounds__(kNormalizerThreads) scaleRows(const ScaleArgs args) {
  const Chunk chunk = args.chunks[blockIdx.x / args.HV];
  const int64_t hv = blockIdx.x % args.HV, h = hv / (args.HV / args.H);
  for (int t = static_cast<int>(threadIdx.x) / 32; t < chunk.tokens; t += kNormalizerThreads / 32) {
    const float by = args.scales[(chunk.token + t) * args.H + h];
    const int64_t row = ((chunk.token + t) * args.HV + hv) * args.V;
    for (int i = static_cast<int>(threadIdx.x) % 32; i < args.V; i += 32)
      setElement(args.to, args.toDType, row + i, elementAt(args.from, args.fromDType, row + i) * by);
  }
}

}  // namespace rankone::cuda
