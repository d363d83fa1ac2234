// What stands before the recurrence, one value at a time, in float32 to a few ulps: the activations of gates and betas,
// keys out of gates, and reads of any float dtype. The formulas are those of cpp/kernels/recurrence_rows.inl.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>

#include "backend.h"

// Last: it names what CUDA and the emulator have in common.
#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr float kLog2e = 1.44269504f;
// A log gate below this is a reset: e^g is no float32 any more, and the rows become +0 whatever they held.
constexpr float kResetBelow = -104.0f, kResetBelowBase2 = kResetBelow * kLog2e;
constexpr double kNormEpsilon = 1e-6;

// Element i of an array of any dtype. The switch costs little where a whole warp takes one way.
SIMT_DEV float elementAt(const void* data, int32_t dtype, int64_t i) {
  if (dtype == RANKONE_F32) return static_cast<const float*>(data)[i];
  const uint16_t u = static_cast<const uint16_t*>(data)[i];
  return dtype == RANKONE_BF16 ? simt::bf16_to_f32(u) : simt::f16_to_f32(u);
}
SIMT_DEV void setElement(void* data, int32_t dtype, int64_t i, float x) {
  if (dtype == RANKONE_F32)
    static_cast<float*>(data)[i] = x;
  else
    static_cast<uint16_t*>(data)[i] = dtype == RANKONE_BF16 ? simt::f32_to_bf16(x) : simt::f32_to_f16(x);
}

SIMT_DEV float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
SIMT_DEV float softplus(float x) { return (x > 0 ? x : x == x ? 0.0f : x) + log1pf(expf(-fabsf(x))); }

// e^aLog, at most the largest float32: infinity would meet zeros of the other factor.
SIMT_DEV float gateRate(float aLog) {
  const float rate = expf(aLog);
  return rate > FLT_MAX ? FLT_MAX : rate;
}
// The log decay of a raw gate with its bias added.
SIMT_DEV float activateGate(float x, float rate, float lowerBound) {
  return lowerBound < 0 ? sigmoid(x * rate) * lowerBound : softplus(x) * -rate;
}
// Its derivative by x, and by aLog.
SIMT_DEV float gateSlope(float x, float rate, float lowerBound, float& byRate) {
  if (lowerBound < 0) {
    const float y = x * rate, slope = sigmoid(y) * sigmoid(-y) * rate * lowerBound;
    byRate = slope * x;
    return slope;
  }
  byRate = softplus(x) * -rate;
  return sigmoid(x) * -rate;
}

SIMT_DEV float activateBeta(float x, int32_t activation) {
  if (activation == RANKONE_BETA_NONE) return x;
  return sigmoid(x) * (activation == RANKONE_BETA_SIGMOID2 ? 2.0f : 1.0f);
}

SIMT_DEV float keyOfGate(float g) { return -expm1f(g); }

// The sum over `lanes` neighbouring lanes (a power of two) in all of them, added in an order of its own.
template <class T>
SIMT_DEV T warpSum(T x, int lanes = 32) {
  SIMT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2)
    if (mask < lanes) x += simt::shfl_xor(x, mask);
  return x;
}

// 1 / sqrt(sum x^2 + 1e-6) of a row that lies across `lanes` lanes; the whole warp calls it.
template <int kValues>
SIMT_DEV float inverseNorm(const float (&x)[kValues], int lanes = 32) {
  float squares = 0;
  SIMT_UNROLL
  for (int i = 0; i < kValues; ++i) squares = fmaf(x[i], x[i], squares);
  const float sum = warpSum(squares, lanes);
  const float norm = 1.0f / sqrtf(sum + static_cast<float>(kNormEpsilon));
  const bool overflows = !(sum <= FLT_MAX);
  if (!simt::ballot(overflows)) return norm;
  double wide = 0;  // the squares may have overflowed where the norm does not
  SIMT_UNROLL
  for (int i = 0; i < kValues; ++i) wide += static_cast<double>(x[i]) * x[i];
  wide = warpSum(wide, lanes);
  return overflows ? static_cast<float>(1 / sqrt(wide + kNormEpsilon)) : norm;
}

}  // namespace rankone::cuda
