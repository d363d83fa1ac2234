// Mean cross entropy of rows of logits against class indices. See cross_entropy.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct CrossEntropyArgs {
  const void* logits;  // [N, V]
  DType dtype;
  const int32_t* targets;  // [N], each in [0, V) or ignoreIndex
  float* loss;             // one number
  float* losses;           // [N]
  int64_t N, V, ignoreIndex;
  const CancelFlag* cancel = nullptr;
};

struct CrossEntropyBackwardArgs {
  const void* logits;      // [N, V]
  const int32_t* targets;  // [N], each in [0, V) or ignoreIndex
  void* dLogits;           // [N, V]
  DType dtype, gradDType;  // of logits, of dLogits
  double dLoss;
  int64_t N, V, ignoreIndex;
  const CancelFlag* cancel = nullptr;
};

void crossEntropy(const CrossEntropyArgs& args);
void crossEntropyBackward(const CrossEntropyBackwardArgs& args);

}  // namespace rankone
