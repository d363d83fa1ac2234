// y = x / rms(x) * weight, gated before the norm, after it or not at all; and the L2 norm. See rms_norm.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct NormForm {
  bool l2 = false;         // the root of the sum of squares in place of that of their mean
  bool sigmoid = false;    // the gate's activation, in place of silu
  bool gateFirst = false;  // the norm of the gated x, in place of the gated norm
};

struct RmsNormArgs {
  const void* x;             // [rows, D]
  const void* gate;          // [rows, D], or null
  const void* weight;        // [D], or null: ones
  void* y;                   // [rows, D]
  DType dtype, weightDType;  // of x, gate and y; of weight
  int64_t rows, D;
  double eps;
  NormForm form;
  const CancelFlag* cancel = nullptr;
};

struct RmsNormBackwardArgs {
  const void* x;             // [rows, D]
  const void* gate;          // [rows, D], or null
  const void* weight;        // [D], or null: ones
  const void* dY;            // [rows, D]
  void* dX;                  // [rows, D]
  void* dGate;               // [rows, D]; null without gate
  void* dWeight;             // [D]; null without weight
  DType dtype, weightDType;  // of x, gate and dY; of weight
  DType gradDType, dWeightDType;
  int64_t rows, D;
  double eps;
  NormForm form;
  const CancelFlag* cancel = nullptr;
};

void rmsNorm(const RmsNormArgs& args);
void rmsNormBackward(const RmsNormBackwardArgs& args);

}  // namespace rankone
