// out = sum_i c_i Basis_i, bases given or drawn from a seed, and its gradients. See basis_combination.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct Bases {
  FloatView values;  // [count, size], or none: normal numbers, basis i the beginning of stream `stream` + i
  uint64_t seed = 0, stream = 0;
  double deviation = 1;
  int64_t count = 0, size = 0;
  // Coefficients are [heads, count]; head h has the elements e of a basis with e / run % heads = h.
  int64_t heads = 1, run = 1;
};

struct BasisCombinationArgs {
  Bases bases;
  FloatView coefficients;  // [heads, count]
  void* out;               // [size]
  DType dtype;
  const CancelFlag* cancel = nullptr;
};

struct BasisCombinationBackwardArgs {
  Bases bases;
  FloatView coefficients;                                         // [heads, count]; where dBases is wanted
  FloatView dOut;                                                 // [size]
  void* dCoefficients = nullptr;                                  // [heads, count]
  void* dBases = nullptr;                                         // [count, size], or null
  DType coefficientsDType = DType::F32, basesDType = DType::F32;  // of the gradients
  const CancelFlag* cancel = nullptr;
};

void basisCombination(const BasisCombinationArgs& args);
void basisCombinationBackward(const BasisCombinationBackwardArgs& args);

}  // namespace rankone
