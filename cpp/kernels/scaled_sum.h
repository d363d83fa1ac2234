// y = addend + scale x, element by element: what an adapter's product is added with.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct ScaledSumArgs {
  const float* x = nullptr;  // [size]
  FloatView addend;          // [size], or none
  void* y = nullptr;         // [size], which may be x where it is float32
  DType dtype = DType::F32;
  float scale = 1;
  int64_t size = 0;
  const CancelFlag* cancel = nullptr;
};

void scaledSum(const ScaledSumArgs& args);

}  // namespace rankone
