// Rows of a table by index, and the gradient of the table. See embedding.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct EmbeddingArgs {
  const int32_t* ids;  // [count], each in [0, V)
  const void* weight;  // [V, D]
  void* y;             // [count, D]
  DType dtype;         // of both
  int64_t count, V, D;
  const CancelFlag* cancel = nullptr;
};

struct EmbeddingBackwardArgs {
  const int32_t* ids;      // [count], each in [0, V)
  const void* dY;          // [count, D]
  void* dWeight;           // [V, D]
  DType dtype, gradDType;  // of dY, of dWeight
  int64_t count, V, D;
  const CancelFlag* cancel = nullptr;
};

// The first index that is none of 0 .. V-1, or count.
int64_t findBadId(const int32_t* ids, int64_t count, int64_t V);

void embedding(const EmbeddingArgs& args);
void embeddingBackward(const EmbeddingBackwardArgs& args);

}  // namespace rankone
