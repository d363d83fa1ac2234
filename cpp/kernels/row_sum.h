// y = the sum of x's rows. Bias gradients, and the last step of every gradient that is summed over rows in blocks.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct RowSumArgs {
  const void* x;  // [rows, N]
  void* y;        // [N]
  int64_t rows, N;
  const CancelFlag* cancel = nullptr;
  DType dtype = DType::F32, yDType = DType::F32;
};

void rowSum(const RowSumArgs& args);

}  // namespace rankone
