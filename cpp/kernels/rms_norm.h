// y = x / rms(x) * weight, with or without a silu gate. See rms_norm.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace rankone {

struct RmsNormArgs {
  const float* x;       // [rows, D]
  const float* gate;    // [rows, D], or null
  const float* weight;  // [D], or null: ones
  float* y;             // [rows, D]
  int64_t rows, D;
  double eps;
  const CancelFlag* cancel = nullptr;
};

struct RmsNormBackwardArgs {
  const float* x;       // [rows, D]
  const float* gate;    // [rows, D], or null
  const float* weight;  // [D], or null: ones
  const float* dY;      // [rows, D]
  float* dX;            // [rows, D]
  float* dGate;         // [rows, D]; null without gate
  float* dWeight;       // [D]; null without weight
  int64_t rows, D;
  double eps;
  const CancelFlag* cancel = nullptr;
};

void rmsNorm(const RmsNormArgs& args);
void rmsNormBackward(const RmsNormBackwardArgs& args);

}  // namespace rankone
