// Gradients are computed in float32. Where the caller wants one in a half-width type (gradDtype: 'input') it is
// computed into memory of its own and rounded once at the end.
#pragma once
#include <vector>

#include "core/workspace.h"
#include "ops/op.h"

namespace rankone {

class GradientBuffers {
 public:
  explicit GradientBuffers(const Call& call) : call_(call) {}
  // Where an output is to be computed; null if the call does not produce it.
  float* f32(int output);
  // Rounds what was computed for half-width outputs into them.
  void finish();

 private:
  const Call& call_;
  struct Pending {
    int output;
    AlignedBuffer buffer;
  };
  std::vector<Pending> pending_;
};

}  // namespace rankone
