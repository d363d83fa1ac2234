// What both references of the fused LoRA product need, of the engine's kernels and of the CUDA library's.
#pragma once
#include <cstdint>

#include "array.h"

namespace rankone::test {

// In the order of the engine's RankActivation and of the library's RANKONE_ACT_*.
enum class Phi { None, Relu, Gelu, Silu, SelfTopK };

// h = phi(p) and, for given dh, the gradient at p. SelfTopK keeps `active` ranks.
void activate(Phi phi, int64_t active, const Values& p, const Values& dh, Values& h, Values& dp);

// The word that decides whether dropout keeps an element.
uint32_t philoxWord(uint64_t seed, int64_t row, int64_t column);

}  // namespace rankone::test
