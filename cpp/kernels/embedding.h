// Rows of a table by index, and the gradient of the table. See embedding.cpp.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace rankone {

struct EmbeddingArgs {
  const int32_t* ids;   // [count], each in [0, V)
  const float* weight;  // [V, D]
  float* y;             // [count, D]
  int64_t count, V, D;
  const CancelFlag* cancel = nullptr;
};

struct EmbeddingBackwardArgs {
  const int32_t* ids;  // [count], each in [0, V)
  const float* dY;     // [count, D]
  float* dWeight;      // [V, D]
  int64_t count, V, D;
  const CancelFlag* cancel = nullptr;
};

// The first index that is none of 0 .. V-1, or count.
int64_t findBadId(const int32_t* ids, int64_t count, int64_t V);

void embedding(const EmbeddingArgs& args);
void embeddingBackward(const EmbeddingBackwardArgs& args);

}  // namespace rankone
