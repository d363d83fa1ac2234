// Rotary position embeddings. See rope.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

constexpr int64_t kRopePadding = 8;  // frequencies come in multiples of this

// [tokens, heads, D] each; y may be x where they have one dtype.
struct RopeTensor {
  const void* x = nullptr;
  void* y = nullptr;
  int64_t heads = 0;
};

struct RopeArgs {
  RopeTensor tensors[2];      // turned by the same angles; the second one may have no heads
  DType dtype, outDType;      // of all x, of all y: float32 or that of x
  const double* frequencies;  // [R/2], and zeros up to the padding
  double largestFrequency;    // by magnitude
  IndexView positions;        // of token t at t % positionCount; absent: offset + t, counted from its sequence's start
  int64_t positionCount;
  int64_t offset;
  const int64_t* starts;  // [N+1] of packed sequences, or null: every T tokens
  int64_t N, T;
  int64_t tokens, D, R;
  double scale;  // of what is turned
  bool interleaved, inverse;
  const CancelFlag* cancel = nullptr;
};

void rope(const RopeArgs& args);

}  // namespace rankone
