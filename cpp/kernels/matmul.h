// y = op(a) op(b) + bias, for a batch of products. See matmul.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace rankone {

struct MatmulArgs {
  const float* a = nullptr;     // [M,K], or [K,M] with transposeA
  const float* b = nullptr;     // [K,N], or [N,K] with transposeB
  const float* bias = nullptr;  // [N], or null
  float* y = nullptr;           // [batch, M,N]
  int64_t batch = 1, M = 0, N = 0, K = 0;
  bool transposeA = false, transposeB = false;
  int64_t aStep = 0, bStep = 0;      // floats from one product's operand to the next one's; 0: all share it
  int64_t reduce = 1;                // this many products are added up, in order, into one y ...
  int64_t aReduce = 0, bReduce = 0;  // ... and these are the floats from one of them to the next
  const CancelFlag* cancel = nullptr;
};

void matmul(const MatmulArgs& args);

}  // namespace rankone
