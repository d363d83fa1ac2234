// What a forward with saveForBackward keeps for its backward: per value head, the state at every chunk start and the
// residual v - S^T k of every step. Engine-owned; the layout belongs to the kernels of the instruction set that made
// it.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/cuda.h"
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
    // On a device what decides the arithmetic, and 0 on the CPU, whose layout does not depend on it.
    int64_t dtype, recurrent, compute;
    bool operator==(const Key&) const = default;
  };

  Key key{};
  float* states = nullptr;     // as SavedGeometry lays them out
  float* residuals = nullptr;  // null for additive updates, whose residual is v
  AlignedBuffer buffer;
  std::shared_ptr<cuda::Buffer> deviceBuffer;  // in place of all these, in a layout that the backend knows

  size_t bytes() const { return deviceBuffer ? deviceBuffer->bytes() : buffer.bytes(); }
};

}  // namespace rankone
