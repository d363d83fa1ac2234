// One step of AdamW, in place. See adam_w.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct AdamWArgs {
  float* param;      // [size], updated
  const void* grad;  // [size]
  DType gradDType;
  float* m;  // [size], updated: running mean of the gradient
  float* v;  // [size], updated: running mean of its square
  int64_t size;
  float keep;          // 1 - lr * weightDecay
  float stepSize;      // lr / (1 - beta1^step)
  float mRate;         // 1 - beta1
  float beta2, vRate;  // vRate = 1 - beta2
  float rootScale;     // 1 / sqrt(1 - beta2^step)
  float eps;
  const CancelFlag* cancel = nullptr;
};

void adamW(const AdamWArgs& args);

}  // namespace rankone
