// The parts of Mamba-2 (state space duality) around its recurrence: the step size dt, what it does to values and gates,
// the skip D x, and their gradients. Dao and Gu 2024.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct Mamba2Args {
  int64_t rows, HV, P;  // rows = B * T
  FloatView x;          // [rows,HV,P]
  FloatView dt;         // [rows,HV], as given
  const float* A;       // [HV]
  const float* D;       // [HV] or null
  const float* dtBias;  // [HV] or null
  bool softplus;
  float low, high;  // dt is clamped into this range last
  const CancelFlag* cancel;
};

// step = clamp(softplus(dt + dtBias)) [rows,HV], g = step A [rows,HV].
void mamba2Prepare(const Mamba2Args& args, float* step, float* g);
// y = o + D x; o may be y itself.
void mamba2Skip(const Mamba2Args& args, const float* o, void* y, DType yDType);

struct Mamba2Gradients {
  const float* step;  // as prepared
  FloatView dY;
  const float *dV, *dG;
  float* dx;       // [rows,HV,P]
  float* ddt;      // [rows,HV]
  float* dA;       // [HV]
  float* dD;       // [HV] or null
  float* dDtBias;  // [HV] or null
};
void mamba2Gradients(const Mamba2Args& args, const Mamba2Gradients& grads);

}  // namespace rankone
