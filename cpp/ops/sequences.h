// What every op over sequences shares: packed variable lengths, and where a state comes from and goes.
#pragma once
#include "ops/op.h"
#include "ops/state.h"

namespace rankone {

// The tokens of N sequences: rows of a batch, or packed into its one row.
struct Sequences {
  int64_t B = 0, T = 0, N = 0;
  IndexView starts;  // [N+1], checked; null: every row of the batch is a sequence

  // A sequence's first token, counted through the batch, and its length.
  int64_t start(int64_t i) const { return starts ? starts[i] : i * T; }
  int64_t length(int64_t i) const { return starts ? starts[i + 1] - starts[i] : T; }
  // What the first dimension of a state is called.
  const char* name() const { return starts ? "N" : "B"; }
};

// Checks cuSeqlens, input `input`, while planning.
Sequences sequencesOf(const Call& call, int input, int64_t B, int64_t T, bool planning);

// The state that a forward starts from and the one that it leaves, which are one with `state`.
struct StateMemory {
  const float* initial = nullptr;
  float* final = nullptr;
  IndexView rows;  // of both, one per sequence; null: 0..N-1
  int64_t row(int64_t sequence) const { return rows ? rows[sequence] : sequence; }
};

// Where a call's inputs and outputs of its state stand, and the dimensions of one sequence's share.
struct StateArguments {
  int initialState, stateIndices, finalState;  // stateIndices -1: a backward, without state
  int64_t HV, K, V;
  const char* pattern;  // of the dimensions after the first, "HV,K,V"
};
// Checks all of it while planning; a state has exactly these dimensions.
StateMemory bindState(const Call& call, const StateArguments& arguments, const Sequences& sequences, bool planning);

}  // namespace rankone
