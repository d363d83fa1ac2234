// Whole tensors between float types, see core/half.inl.
#pragma once
#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

// Rounds `n` floats to the dtype of `to`.
void narrowAll(const float* from, int64_t n, void* to, DType dtype, const CancelFlag* cancel);

}  // namespace rankone
