// Row norms of W + scale B M A, for DoRA. See dora_norms.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"
#include "kernels/panels.h"

namespace rankone {

struct DoraNormsArgs {
  FloatView weight;  // W [out, in], or
  const Panels* packed = nullptr;
  FloatView a;    // A [rank, in]
  FloatView b;    // B [out, midRank]
  FloatView mid;  // M [midRank, rank], a diagonal [rank], or none; float32
  bool diagonal = false;
  bool matrix = false;  // mid is one, of no rows perhaps
  double scale = 1;
  float* norms = nullptr;  // [out]
  int64_t out = 0, in = 0, rank = 0, midRank = 0;
  const CancelFlag* cancel = nullptr;
};

void doraNorms(const DoraNormsArgs& args);

}  // namespace rankone
