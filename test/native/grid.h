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
  Array aLog, dtBias, initialZ, dFinalZ;
  Array cuSeqlens;  // with it, sizes are the packed row's
  std::string label;

  GridValues values() const;
};

// q, k, v, dO of the dtype, and g and beta for every other seed.
GridProblem drawProblem(const Sizes& sizes, Numbers numbers, bool states, uint64_t seed, DType dtype = DType::F32);

// The T tokens from `first` of [B, T, ...], with `perToken` rows a token; what has no tokens comes back as it is.
Array tokensOf(const Array& a, int64_t first, int64_t count, int64_t perToken = 1);
// `count` rows of the first dimension.
Array rowsOf(const Array& a, int64_t first, int64_t count);
// Those tokens of a problem, its states left as they are.
GridProblem tokensOf(const GridProblem& whole, int64_t first, int64_t count);

// `function` is a name of the registry: the grid itself or a preset.
Invocation forwardCall(const GridProblem& problem, const std::string& function = "recurrence");
Invocation backwardCall(const GridProblem& problem, const std::string& function = "recurrenceBackward");

}  // namespace rankone::test
