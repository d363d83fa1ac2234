// Normal values of a seed into memory. See random_normals.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace rankone {

// Values first, first + 1, ... of a stream, times deviation; `first` is a multiple of four.
struct FillNormalsArgs {
  uint64_t seed;
  uint32_t stream;
  double deviation;
  int64_t first, count;
  float* to;
  const CancelFlag* cancel = nullptr;
};

void fillNormals(const FillNormalsArgs& args);

}  // namespace rankone
