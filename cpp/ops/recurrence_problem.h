// The one copy of the recurrence's shape rules: a call's arguments, checked, as the kernels take them.
#pragma once
#include <vector>

#include "kernels/recurrence.h"
#include "ops/recurrence.h"

namespace rankone {

// Fills what forward and backward share. fixedGate keeps the values of a gate that a preset derives from the shape.
void bindProblem(const Call& call, RecurrenceProblem& problem, std::vector<float>& fixedGate);

SavedForward::Key savedKey(const RecurrenceProblem& problem);

}  // namespace rankone
