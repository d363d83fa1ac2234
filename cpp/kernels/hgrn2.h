// HGRN2's keys follow from its gates: k = 1 - e^g (RecurrenceProblem::keysFromGates). Qin et al. 2024.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

// dg += dk * dk/dg = -dk e^g
void hgrn2AddGateGradient(int64_t n, const FloatView& g, const float* dk, float* dg, const CancelFlag* cancel);

}  // namespace rankone
