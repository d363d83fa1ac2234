// y = the sum of x's rows. Bias gradients, and the last step of every gradient that is summed over rows in blocks.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace rankone {

struct RowSumArgs {
  const float* x;  // [rows, N]
  float* y;        // [N]
  int64_t rows, N;
  const CancelFlag* cancel = nullptr;
};

void rowSum(const RowSumArgs& args);

}  // namespace rankone
