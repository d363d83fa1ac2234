// Scans beyond the grid that keep a matrix state per head and decay its rows by channel: DPLR, RWKV-6, RWKV-7.
// See gated_scan.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

enum class ScanRule : uint8_t {
  Dplr,       // S <- D(g) S + b (a^T S)^T + k v^T, then o = scale S^T q
  Rwkv7,      // the same with g, a, b made of raw arguments: see GatedScanProblem
  BonusFirst  // o = scale (S + (u k) v^T)^T q, then S <- D(g) S + k v^T
};

struct GatedScanProblem {
  ScanRule rule;
  int64_t B, T, H, K, V;
  int64_t N;    // sequences: B, or as many as are packed into the one row
  FloatView q;  // [B,T,H,K]
  FloatView k;  // [B,T,H,K]
  FloatView v;  // [B,T,H,V]
  // Dplr: [B,T,H,K] each. Rwkv7: g is the decay before its sigmoid, a the removal key before its norm, b how much of it
  // is removed: g <- -e^-0.5 sigmoid(g), a <- -a / |a|, b <- b a / |a|. BonusFirst: g alone.
  FloatView g, a, b;
  FloatView bonus;  // BonusFirst: [H,K]
  float scale;
  IndexView cuSeqlens;        // [N+1] tokens, checked; null: every row of the batch is a sequence
  const float* initialState;  // [N,H,K,V] or null
  IndexView stateRows;        // [N] rows of initialState and finalState, checked; null: 0..N-1
  const CancelFlag* cancel;

  int64_t start(int64_t sequence) const { return cuSeqlens ? cuSeqlens[sequence] : sequence * T; }
  int64_t length(int64_t sequence) const { return cuSeqlens ? cuSeqlens[sequence + 1] - cuSeqlens[sequence] : T; }
  int64_t stateOffset(int64_t sequence, int64_t h) const {
    return ((stateRows ? stateRows[sequence] : sequence) * H + h) * K * V;
  }
};

struct GatedScanForward : GatedScanProblem {
  void* o;  // [B,T,H,V]
  DType oDType;
  float* finalState;  // [N,H,K,V] or null; may be initialState itself
};

struct GatedScanBackward : GatedScanProblem {
  FloatView dO;              // [B,T,H,V]
  const float* dFinalState;  // [N,H,K,V] or null
  float *dq, *dk, *dv, *dg;  // as q, k, v, g
  float *da, *db;            // as a, b; null with BonusFirst
  float* dBonus;             // [H,K]; null but with BonusFirst
  float* dInitialState;      // [N,H,K,V] or null
};

void gatedScan(const GatedScanForward& args);
void gatedScanBackward(const GatedScanBackward& args);

}  // namespace rankone
