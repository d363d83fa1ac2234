// The one copy of the recurrence's shape rules: a call's arguments, checked, as the kernels take them.
#pragma once
#include <vector>

#include "kernels/recurrence.h"
#include "ops/recurrence.h"

namespace rankone {

// Fills what forward and backward share. fixedGate takes the values of a gate that a preset derives from the shape,
// where there is something to compute; null while planning.
void bindProblem(const Call& call, RecurrenceProblem& problem, std::vector<float>* fixedGate);

SavedForward::Key savedKey(const Call& call, const RecurrenceProblem& problem);

}  // namespace rankone
