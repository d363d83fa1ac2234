// Softmax attention inside a window and linear attention before it under one normaliser. See window_linear.inl.
#pragma once
#include <cstdint>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"
#include "kernels/attention.h"

namespace rankone {

constexpr int64_t kMostWindow = int64_t{1} << 40;

struct WindowLinearSequence {
  int64_t row, T;    // the first token in the tensors, and how many
  int64_t state;     // row of the initial and final states
  int64_t slot = 0;  // of the cache
  int64_t seen = 0;  // positions before the first token: those of the cache
};

struct WindowLinearArgs {
  const void *q, *k, *v;                 // [tokens,H,K], [tokens,HKV,K], [tokens,HKV,V]
  const void *phiQ, *phiK;               // [tokens,H,F], [tokens,HF,F]
  const float* windowFactors;            // [H], before the sigmoid, or null
  const float *initialState, *initialZ;  // [rows,HF,F,V] and [rows,HF,F], or null
  DType dtype, phiDType;                 // of q, k, v; of phiQ, phiK
  int64_t H, HKV, HF, K, V, F;
  float scale;
  int64_t window;
  bool terraced, affine;
  AttentionCache cache;  // k null: none; its keys are [K + HF / HKV * F]: a key and its features
  DType cacheDType;
  const std::vector<WindowLinearSequence>* sequences;
  const CancelFlag* cancel = nullptr;

  // The first position that the window of position p holds.
  int64_t begin(int64_t p) const {
    const int64_t at = terraced ? (p / window - 1) * window : p - window + 1;
    return at > 0 ? at : 0;
  }
  // How far a window reaches back at most.
  int64_t reach() const { return terraced ? 2 * window - 1 : window - 1; }
};

struct WindowLinearForward : WindowLinearArgs {
  void* o;  // [tokens,H,V]
  DType oDType;
  float *finalState, *finalZ;  // as the initial ones, or null; one with them where a state advances
  bool foldsAll;               // the last windows are part of the final state
};

struct WindowLinearBackward : WindowLinearArgs {
  const void* dO;                       // [tokens,H,V], of q's dtype
  const float *dFinalState, *dFinalZ;   // or null
  float *dq, *dk, *dv, *dPhiQ, *dPhiK;  // as the inputs
  float* dWindowFactors;                // null without them
  float *dInitialState, *dInitialZ;     // null without them
};

void windowLinearAttention(const WindowLinearForward& args);
void windowLinearAttentionBackward(const WindowLinearBackward& args);

}  // namespace rankone
