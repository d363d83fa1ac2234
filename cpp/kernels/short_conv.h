// Causal depthwise convolution over time. See short_conv.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

constexpr int64_t kMaxConvWidth = 64;

struct ShortConvArgs {
  const void* x;                        // [B,T,D]
  const void* weight;                   // [D,W], the last tap meets the newest token
  const void* bias;                     // [D], or null
  const float* initialState;            // [B,D,W-1], oldest first, or null: zeros
  void* y;                              // [B,T,D]
  float* finalState;                    // [B,D,W-1], or null
  DType dtype, weightDType, biasDType;  // dtype: of x and y
  int64_t B, T, D, W;
  bool silu;
  const CancelFlag* cancel = nullptr;
};

struct ShortConvBackwardArgs {
  const void* x;                        // [B,T,D]
  const void* weight;                   // [D,W]
  const void* bias;                     // [D], or null
  const float* initialState;            // [B,D,W-1], or null
  const void* dY;                       // [B,T,D]
  const float* dFinalState;             // [B,D,W-1], or null
  void* dX;                             // [B,T,D]
  void* dWeight;                        // [D,W]
  void* dBias;                          // [D]; null without bias
  float* dInitialState;                 // [B,D,W-1]; null without initialState
  DType dtype, weightDType, biasDType;  // dtype: of x and dY
  DType gradDType, dWeightDType, dBiasDType;
  int64_t B, T, D, W;
  bool silu;
  const CancelFlag* cancel = nullptr;
};

void shortConv(const ShortConvArgs& args);
void shortConvBackward(const ShortConvBackwardArgs& args);

}  // namespace rankone
