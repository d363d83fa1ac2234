// The elementwise gated scan, h_t = e^g_t h_(t-1) + x_t. See hgrn.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct HgrnProblem {
  FloatView x;  // [B,T,D]
  FloatView g;  // [B,T,D] log decays, float32 or as x
  int64_t B, T, D, N;
  IndexView cuSeqlens;        // [N+1] tokens, checked; null: every row of the batch is a sequence
  const float* initialState;  // [N,D] or null
  IndexView stateRows;        // [N] rows of initialState and finalState, checked; null: 0..N-1
  const CancelFlag* cancel;

  int64_t start(int64_t n) const { return cuSeqlens ? cuSeqlens[n] : n * T; }
  int64_t length(int64_t n) const { return cuSeqlens ? cuSeqlens[n + 1] - cuSeqlens[n] : T; }
  int64_t stateOffset(int64_t n) const { return (stateRows ? stateRows[n] : n) * D; }
};

struct HgrnForward : HgrnProblem {
  void* o;            // [B,T,D], in the dtype of x
  float* finalState;  // [N,D] or null; may be initialState itself
};

struct HgrnBackward : HgrnProblem {
  FloatView dO;              // [B,T,D], in the dtype of x
  const float* dFinalState;  // [N,D] or null
  float *dx, *dg;            // [B,T,D]
  float* dInitialState;      // [N,D] or null
};

void hgrn(const HgrnForward& args);
void hgrnBackward(const HgrnBackward& args);

}  // namespace rankone
