// y = op(a) op(b) + bias, for a batch of products. See matmul.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct MatmulArgs {
  const void* a = nullptr;     // [M,K], or [K,M] with transposeA
  const void* b = nullptr;     // [K,N], or [N,K] with transposeB
  const void* bias = nullptr;  // [N], or null
  void* y = nullptr;           // [batch, M,N]
  DType dtype = DType::F32;    // of a and b
  DType biasDType = DType::F32, yDType = DType::F32;
  bool bf16 = false;  // products of operands rounded to bf16; only where hasBf16Dot()
  int64_t batch = 1, M = 0, N = 0, K = 0;
  bool transposeA = false, transposeB = false;
  int64_t aStep = 0, bStep = 0;      // elements from one product's operand to the next one's; 0: all share it
  int64_t reduce = 1;                // this many products are added up, in order, into one y ...
  int64_t aReduce = 0, bReduce = 0;  // ... and these are the elements from one of them to the next
  const CancelFlag* cancel = nullptr;
};

void matmul(const MatmulArgs& args);

}  // namespace rankone
