// The recurrence grid on the CPU. One family of kernels, three forms: the scan (prefill), the token form (decode) and
// the backward; gate and update rule are compile-time policies, a paper is never a kernel.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "ops/presets.h"

namespace rankone {

struct RecurrenceProblem {
  int64_t B, T, H, HV, K, V;
  int64_t n;  // updates per token; 1 except for Householder products
  UpdateRule update;
  GateKind gate;
  float scale;
  const float* q;             // [B,T,H,K]
  const float* k;             // [B,T*n,H,K]
  const float* v;             // [B,T*n,HV,V]
  const float* g;             // by gate: null, [HV], [B,T,HV], [B,T,HV,K]
  const float* beta;          // [B,T*n,HV], delta only
  const float* initialState;  // [B,HV,K,V] or null
  const CancelFlag* cancel;

  // Rows of one batch row and (value) head.
  const float* qRow(int64_t b, int64_t t, int64_t hv) const { return q + ((b * T + t) * H + hv / (HV / H)) * K; }
  const float* kRow(int64_t b, int64_t s, int64_t hv) const { return k + ((b * T * n + s) * H + hv / (HV / H)) * K; }
  const float* vRow(int64_t b, int64_t s, int64_t hv) const { return v + ((b * T * n + s) * HV + hv) * V; }
  int64_t stateOffset(int64_t b, int64_t hv) const { return (b * HV + hv) * K * V; }
};

struct RecurrenceForward : RecurrenceProblem {
  float* o;            // [B,T,HV,V]
  float* finalState;   // [B,HV,K,V] or null; may be initialState itself
  int64_t packTokens;  // tokens whose keys and queries are packed at a time by the scan
  float* savedStates;  // null, or as SavedForward lays them out
  float* savedResiduals;
  int64_t savedFirstHead;  // the batch row x value head that their first entry stands for
};

struct RecurrenceBackward : RecurrenceProblem {
  const float* dO;           // [B,T,HV,V]
  const float* dFinalState;  // [B,HV,K,V] or null
  const float* savedStates;  // from a forward of the same problem, or null: recompute
  const float* savedResiduals;
  float* dq;             // [B,T,H,K]
  float* dk;             // [B,T*n,H,K]
  float* dv;             // [B,T*n,HV,V]
  float* dg;             // as g, or null
  float* dbeta;          // [B,T*n,HV], or null
  float* dInitialState;  // [B,HV,K,V], or null
};

// Forward in blocks of packed tokens, two updates a pass over the state.
void recurrenceScan(const RecurrenceForward& args);
// Forward one update at a time, in place on a row-major state: short sequences, and the plainest order of operations.
void recurrenceTokens(const RecurrenceForward& args);
void recurrenceBackward(const RecurrenceBackward& args);

// Geometry of what a forward saves; it depends on the shape and the instruction set.
struct SavedGeometry {
  int64_t chunkTokens, chunks;
  int64_t stateFloats;     // one chunk's state of one value head
  int64_t residualFloats;  // one step's residual of one value head
};
SavedGeometry savedGeometry(int64_t T, int64_t n, int64_t K, int64_t V);

}  // namespace rankone
