// y = silu(gate) * up. See swiglu.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct SwigluArgs {
  const void* gate;  // [size]
  const void* up;    // [size]
  void* y;           // [size]
  DType dtype;       // of all
  int64_t size;
  const CancelFlag* cancel = nullptr;
};

struct SwigluBackwardArgs {
  const void* gate;        // [size]
  const void* up;          // [size]
  const void* dY;          // [size]
  void* dGate;             // [size]
  void* dUp;               // [size]
  DType dtype, gradDType;  // of the inputs; of dGate and dUp
  int64_t size;
  const CancelFlag* cancel = nullptr;
};

void swiglu(const SwigluArgs& args);
void swigluBackward(const SwigluBackwardArgs& args);

}  // namespace rankone
