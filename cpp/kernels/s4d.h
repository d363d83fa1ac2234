// Diagonal complex state spaces. See s4d.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct S4dProblem {
  const void* x;          // [B,T,D]
  DType dtype;            // of x, y and dY
  const float* logDt;     // [D]
  const float* logAReal;  // [D,M]: the real part of A is -e^logAReal
  const float* AImag;     // [D,M]
  const float* C;         // [D,M,2]
  const float* skip;      // [D], or null
  bool bilinear, convolve;
  int64_t B, T, D, M, N;      // N: sequences, B or as many as are packed into the one row
  IndexView cuSeqlens;        // [N+1] tokens, checked; null: every row of the batch is a sequence
  const float* initialState;  // [N,D,M,2] or null
  IndexView stateRows;        // [N] rows of initialState and finalState, checked; null: 0..N-1
  const CancelFlag* cancel;

  int64_t start(int64_t n) const { return cuSeqlens ? cuSeqlens[n] : n * T; }
  int64_t length(int64_t n) const { return cuSeqlens ? cuSeqlens[n + 1] - cuSeqlens[n] : T; }
  int64_t stateOffset(int64_t n) const { return (stateRows ? stateRows[n] : n) * D * M * 2; }
};

struct S4dForward : S4dProblem {
  void* y;            // [B,T,D]
  float* finalState;  // [N,D,M,2] or null; may be initialState itself
};

struct S4dBackward : S4dProblem {
  const void* dY;            // [B,T,D]
  const float* dFinalState;  // [N,D,M,2] or null
  float *dx, *dLogDt, *dLogAReal, *dAImag, *dC;
  float* dSkip;          // [D], or null
  float* dInitialState;  // [N,D,M,2] or null
};

void s4d(const S4dForward& args);
void s4dBackward(const S4dBackward& args);

}  // namespace rankone
