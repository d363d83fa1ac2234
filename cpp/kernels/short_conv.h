// Causal depthwise convolution over time. See short_conv.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace rankone {

constexpr int64_t kMaxConvWidth = 64;

struct ShortConvArgs {
  const float* x;             // [B,T,D]
  const float* weight;        // [D,W], the last tap meets the newest token
  const float* bias;          // [D], or null
  const float* initialState;  // [B,D,W-1], oldest first, or null: zeros
  float* y;                   // [B,T,D]
  float* finalState;          // [B,D,W-1], or null
  int64_t B, T, D, W;
  bool silu;
  const CancelFlag* cancel = nullptr;
};

struct ShortConvBackwardArgs {
  const float* x;             // [B,T,D]
  const float* weight;        // [D,W]
  const float* bias;          // [D], or null
  const float* initialState;  // [B,D,W-1], or null
  const float* dY;            // [B,T,D]
  const float* dFinalState;   // [B,D,W-1], or null
  float* dX;                  // [B,T,D]
  float* dWeight;             // [D,W]
  float* dBias;               // [D]; null without bias
  float* dInitialState;       // [B,D,W-1]; null without initialState
  int64_t B, T, D, W;
  bool silu;
  const CancelFlag* cancel = nullptr;
};

void shortConv(const ShortConvArgs& args);
void shortConvBackward(const ShortConvBackwardArgs& args);

}  // namespace rankone
