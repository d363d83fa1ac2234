// TTT-Linear: a linear model that learns while it reads. See ttt_linear.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct TttProblem {
  FloatView q, k, v;          // [B,T,H,D]
  FloatView eta;              // [B,T,H]
  const float *gamma, *beta;  // [H,D]
  const float *W, *b;         // [H,D,D] and [H,D], or one for every sequence
  bool ownStart;              // W and b are [N,H,D,D] and [N,H,D]
  int64_t B, T, H, D, N, C;   // N: sequences, B or as many as are packed into the one row; C: tokens of a mini-batch
  float eps;
  IndexView cuSeqlens;  // [N+1] tokens, checked; null: every row of the batch is a sequence
  const CancelFlag *cancel;

  int64_t start(int64_t n) const { return cuSeqlens ? cuSeqlens[n] : n * T; }
  int64_t length(int64_t n) const { return cuSeqlens ? cuSeqlens[n + 1] - cuSeqlens[n] : T; }
};

struct TttForward : TttProblem {
  void *o;  // [B,T,H,D]
  DType oDType;
  float *finalW, *finalB;  // [N,H,D,D] and [N,H,D], or null
};

struct TttBackward : TttProblem {
  FloatView dO;                     // [B,T,H,D]
  const float *dFinalW, *dFinalB;   // as finalW and finalB, or null
  float *dq, *dk, *dv, *dEta;       // as q, k, v, eta
  float *dGamma, *dBeta, *dW, *db;  // as gamma, beta, W, b
};

void tttLinear(const TttForward &args);
void tttLinearBackward(const TttBackward &args);

}  // namespace rankone
