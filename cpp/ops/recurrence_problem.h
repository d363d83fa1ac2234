// The one copy of the recurrence's shape rules: a call's arguments, checked, as the kernels take them.
#pragma once
#include <limits>
#include <vector>

#include "kernels/recurrence.h"
#include "ops/recurrence.h"

namespace rankone {

// Widest key and value that a call takes, which its kernels decide.
inline int64_t maxStateDim(const Call& call) { return call.device ? 256 : 512; }

// Fills what forward and backward share, and checks all of it while planning. fixedGate takes the values of a gate that
// a preset derives from the shape, where there is something to compute; null while planning.
void bindProblem(const Call& call, RecurrenceProblem& problem, std::vector<float>* fixedGate);

// What the first dimension of a state is called: "N" where sequences are packed, else "B".
const char* sequencesName(const RecurrenceProblem& problem);

SavedForward::Key savedKey(const Call& call, const RecurrenceProblem& problem);

}  // namespace rankone
