// Gradients through what stands before the recurrence: the norm of queries and keys, keys out of gates, the activations
// of gates and betas. In place on the gradients of what the recurrence saw. Sums over tokens go in two stages of fixed
// order, in float64.
#pragma once
#include "recurrence_curves.cuh"

namespace rankone::cuda {

constexpr int kActivationThreads = 128;
constexpr int kMostRowLanes = 8;        // values of a lane: rows have up to 256
constexpr int64_t kStretchTokens = 64;  // that a thread adds up

struct RowGradientsArgs {
  const void* x;  // [rows, K] as given
  int32_t dtype;
  int64_t rows;
  int32_t K;
  int32_t keysFromGates;
  const float* norm;  // [rows] inverse norms, or null
  float* gradient;    // [rows, K]
};

// y = x r, r = (|x|^2 + eps)^-1/2: dx = r (dy - y (y . dy)); and x = 1 - e^g: dg = -e^g dx. A warp takes a row.
static __global__ void __launch_bounds__(kActivationThreads) recurrenceRowGradients(const RowGradientsArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kActivationThreads / 32) + threadIdx.x / 32;
  if (row >= args.rows) return;
  float x[kMostRowLanes], slope[kMostRowLanes], dy[kMostRowLanes];
  SIMT_UNROLL
  for (int i = 0; i < kMostRowLanes; ++i) {
    const bool inside = 32 * i + lane < args.K;
    const int64_t at = row * args.K + 32 * i + lane;
    x[i] = inside ? elementAt(args.x, args.dtype, at) : 0.0f;
    dy[i] = inside ? args.gradient[at] : 0.0f;
    slope[i] = 1;
    if (!args.keysFromGates) continue;
    slope[i] = -expf(x[i]);
    x[i] = keyOfGate(x[i]);
  }
  if (args.norm) {
    const float r = args.norm[row];
    float dot = 0;
    SIMT_UNROLL
    for (int i = 0; i < kMostRowLanes; ++i) {
      x[i] *= r;
      dot = fmaf(x[i], dy[i], dot);
    }
    dot = warpSum(dot);
    SIMT_UNROLL
    for (int i = 0; i < kMostRowLanes; ++i) dy[i] = fmaf(-x[i], dot, dy[i]) * r;
  }
  SIMT_UNROLL
  for (int i = 0; i < kMostRowLanes; ++i)
    if (32 * i + lane < args.K) args.gradient[row * args.K + 32 * i + lane] = dy[i] * slope[i];
}

struct BetaGradientsArgs {
  const void* beta;  // [count]
  int32_t dtype, activation;
  int64_t count;
  float* dbeta;
};

static __global__ void __launch_bounds__(kActivationThreads) recurrenceBetaGradients(const BetaGradientsArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kActivationThreads + threadIdx.x;
  if (i >= args.count) return;
  const float x = elementAt(args.beta, args.dtype, i), most = args.activation == RANKONE_BETA_SIGMOID2 ? 2.0f : 1.0f;
  args.dbeta[i] *= sigmoid(x) * sigmoid(-x) * most;
}

struct GateGradientsArgs {
  const void* g;  // [tokens, columns] as given, columns = HV or HV K
  int32_t dtype;
  int64_t tokens, columns;
  int32_t width;        // columns of a value head
  const float* aLog;    // [HV]
  const float* dtBias;  // [columns] or null
  float lowerBound;
  float* dg;                // [tokens, columns]
  double *byBias, *byRate;  // [stretches, columns] or null
};

// A thread takes a stretch of tokens of one column.
static __global__ void __launch_bounds__(kActivationThreads) recurrenceGateGradients(const GateGradientsArgs args) {
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kActivationThreads + threadIdx.x, stretch = blockIdx.x;
  if (column >= args.columns) return;
  const float rate = gateRate(args.aLog[column / args.width]), bias = args.dtBias ? args.dtBias[column] : 0.0f;
  double byBias = 0, byRate = 0;
  for (int64_t t = stretch * kStretchTokens; t < args.tokens && t < (stretch + 1) * kStretchTokens; ++t) {
    const int64_t at = t * args.columns + column;
    const float dg = args.dg[at], x = elementAt(args.g, args.dtype, at) + bias;
    float rateSlope;
    const float slope = gateSlope(x, rate, args.lowerBound, rateSlope);
    // A reset has no gradient, whatever the slope there is.
    const float dx = dg == 0 ? 0.0f : dg * slope;
    byBias += dx;
    byRate += dg == 0 ? 0.0f : dg * rateSlope;
    args.dg[at] = dx;
  }
  if (args.byBias) args.byBias[stretch * args.columns + column] = byBias;
  if (args.byRate) args.byRate[stretch * args.columns + column] = byRate;
}

struct ColumnSumsArgs {
  const double* from;  // [stretches, columns]
  int64_t stretches, columns;
  int32_t width;  // neighbouring columns that are added up
  float* to;      // [columns / width]
};

struct ColumnSumsShared {
  double sums[kActivationThreads];
};

// A block adds one sum.
static __global__ void __launch_bounds__(kActivationThreads) recurrenceColumnSums(const ColumnSumsArgs args) {
  auto& sums = simt::shared<ColumnSumsShared>().sums;
  const int thread = static_cast<int>(threadIdx.x);
  double sum = 0;
  for (int64_t i = thread; i < args.stretches * args.width; i += kActivationThreads)
    sum += args.from[i / args.width * args.columns + blockIdx.x * static_cast<int64_t>(args.width) + i % args.width];
  sums[thread] = sum;
  for (int half = kActivationThreads / 2; half > 0; half /= 2) {
    simt::syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread == 0) args.to[blockIdx.x] = static_cast<float>(sums[0]);
}

}  // namespace rankone::cuda
