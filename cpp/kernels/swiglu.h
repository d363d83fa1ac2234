// y = silu(gate) * up. See swiglu.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace rankone {

struct SwigluArgs {
  const float* gate;  // [size]
  const float* up;    // [size]
  float* y;           // [size]
  int64_t size;
  const CancelFlag* cancel = nullptr;
};

struct SwigluBackwardArgs {
  const float* gate;  // [size]
  const float* up;    // [size]
  const float* dY;    // [size]
  float* dGate;       // [size]
  float* dUp;         // [size]
  int64_t size;
  const CancelFlag* cancel = nullptr;
};

void swiglu(const SwigluArgs& args);
void swigluBackward(const SwigluBackwardArgs& args);

}  // namespace rankone
