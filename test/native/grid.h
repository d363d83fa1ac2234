// Seeded problems of the recurrence grid, and calls of the engine on them.
#pragma once
#include <string>

#include "invocation.h"
#include "recurrence_reference.h"

namespace rankone::test {

// Mild: a memory of some twenty tokens. Strong: most of a state is gone after a token. Resets: mild, with log gates
// that clear. Growing: some are positive. Hostile: NaN, infinities and the ends of float32's range in every argument.
enum class Numbers { Mild, Strong, Resets, Growing, Hostile };

struct GridProblem {
  Sizes sizes;
  Array q, k, v, g, beta, initialState, dO, dFinalState;
  std::string label;

  GridValues values() const;
};

GridProblem drawProblem(const Sizes& sizes, Numbers numbers, bool states, uint64_t seed);

// `function` is a name of the registry: the grid itself or a preset.
Invocation forwardCall(const GridProblem& problem, const std::string& function = "recurrence");
Invocation backwardCall(const GridProblem& problem, const std::string& function = "recurrenceBackward");

}  // namespace rankone::test
