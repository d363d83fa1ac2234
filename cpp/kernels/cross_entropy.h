// Mean cross entropy of rows of logits against class indices. See cross_entropy.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace rankone {

struct CrossEntropyArgs {
  const float* logits;     // [N, V]
  const int32_t* targets;  // [N], each in [0, V) or ignoreIndex
  float* loss;             // one number
  float* losses;           // [N]
  int64_t N, V, ignoreIndex;
  const CancelFlag* cancel = nullptr;
};

struct CrossEntropyBackwardArgs {
  const float* logits;     // [N, V]
  const int32_t* targets;  // [N], each in [0, V) or ignoreIndex
  float* dLogits;          // [N, V]
  double dLoss;
  int64_t N, V, ignoreIndex;
  const CancelFlag* cancel = nullptr;
};

void crossEntropy(const CrossEntropyArgs& args);
void crossEntropyBackward(const CrossEntropyBackwardArgs& args);

}  // namespace rankone
