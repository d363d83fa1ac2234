// What a forward with saveForBackward keeps for its backward: per value head, the state at every chunk start and the
// residual v - S^T k of every step. Engine-owned; the layout belongs to the kernels of the instruction set that made
// it.
#pragma once
#include <cstdint>
#include <vector>

#include "core/workspace.h"
#include "kernels/recurrence.h"

namespace rankone {

class SavedForward {
 public:
  struct Key {  // a backward accepts only what was made for its own problem
    UpdateRule update;
    GateKind gate;
    FixedGate fixedGate;
    BetaActivation betaActivation;
    bool gateActivation, boundedGate, qkL2norm, initialState;
    std::vector<int64_t> starts;  // of packed sequences
    int64_t batch, tokens, heads, valueHeads, keyDim, valueDim, householder, layer, layers;
    bool operator==(const Key&) const = default;
  };

  Key key{};
  float* states = nullptr;     // as SavedGeometry lays them out
  float* residuals = nullptr;  // null for additive updates, whose residual is v
  AlignedBuffer buffer;
};

}  // namespace rankone
