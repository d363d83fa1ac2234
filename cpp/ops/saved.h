// What a forward with saveForBackward keeps for its backward: per value head, the state at every chunk start and the
// residual v - S^T k of every step. Engine-owned; the layout belongs to the kernels of the instruction set that made
// it.
#pragma once
#include <cstdint>

#include "core/workspace.h"
#include "ops/presets.h"

namespace rankone {

class SavedForward {
 public:
  struct Key {  // a backward accepts only what was made for its own problem
    UpdateRule update;
    GateKind gate;
    FixedGate fixedGate;
    bool initialState;
    int64_t batch, tokens, heads, valueHeads, keyDim, valueDim, householder, layer, layers;
    bool operator==(const Key&) const = default;
  };

  Key key{};
  float* states = nullptr;     // [B,HV, chunks, padded K x V blocks]
  float* residuals = nullptr;  // [B,HV, T*n, padded V]; null for additive updates, whose residual is v
  AlignedBuffer buffer;
};

}  // namespace rankone
