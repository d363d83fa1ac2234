// What the ops on segments of a sequence share: a cell of the grid without its queries, or without its values.
#pragma once
#include <vector>

#include "ops/recurrence_problem.h"

namespace rankone {

// Rows of these ops' specs. Options that shape a cell:
#define RANKONE_SEGMENT_OPTIONS                                                                          \
  {"update", OptionKind::Choice, "additive|delta"}, {"numHouseholder", OptionKind::Integer},             \
      {"qkL2norm", OptionKind::Flag}, {"betaActivation", OptionKind::Choice, "none|sigmoid|sigmoid2"}, { \
    "lowerBound", OptionKind::Number, nullptr, "gate"                                                    \
  }
// Inputs after the first ones:
#define RANKONE_SEGMENT_INPUTS                                                                       \
  {"g", false, kFloats}, {"beta", false, kFloats}, {"cuSeqlens", false, kIndices, Access::Read, ""}, \
      {"aLog", false, kF32, Access::Read, "gate"}, {                                                 \
    "dtBias", false, kF32, Access::Read, "gate"                                                      \
  }

// The call as one of `recurrence`, whose shape rules it is held to. Of q and v, what the op has not is a tensor without
// data: q by the shape of k, v by that of dO.
Call recurrenceCallOf(const Call& call);

// bindProblem() of such a call; queries or values that the op has not are null.
RecurrenceProblem segmentProblem(const Call& inner, bool planning);

}  // namespace rankone
