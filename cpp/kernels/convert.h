// Whole tensors between float types, see core/half.inl.
#pragma once
#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

// `n` elements of a tensor as float32, from element `at` on.
void widenAll(const void* from, DType dtype, int64_t at, int64_t n, float* to, const CancelFlag* cancel);

// Rounds `n` floats to the dtype of `to`.
void narrowAll(const float* from, int64_t n, void* to, DType dtype, const CancelFlag* cancel);

}  // namespace rankone
