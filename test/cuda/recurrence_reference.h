// The recurrence grid in float64, one token after the other, and its gradients by reverse mode: what CUDA's kernels
// are compared with. It knows nothing of chunks but where a trace's states lie.
#pragma once
#include <cstdint>
#include <vector>

#include "backend.h"

namespace rankone::reference {

using Values = std::vector<double>;

// As RankoneRecurrence describes it, on the host. An empty array is an absent one.
struct Problem {
  int64_t B = 1, T = 1, H = 1, HV = 1, K = 1, V = 1;
  int64_t n = 1;
  int32_t update = RANKONE_ADDITIVE, gate = RANKONE_GATE_NONE;
  double scale = 1;
  bool normalize = false, keysFromGates = false, qkL2norm = false;
  double lowerBound = 0;
  int32_t betaActivation = RANKONE_BETA_NONE;
  std::vector<int64_t> cuSeqlens;
  Values q, k, v, g, beta;        // the arguments as given
  Values valueScale;              // [B*T*n,HV]
  Values aLog, dtBias;            // with aLog, g is raw
  Values initialState, initialZ;  // of the sequences in their order
  Values dO, dFinalState, dFinalZ;

  int64_t sequences() const { return cuSeqlens.empty() ? B : static_cast<int64_t>(cuSeqlens.size()) - 1; }
  int64_t start(int64_t sequence) const { return cuSeqlens.empty() ? sequence * T : cuSeqlens[sequence]; }
  int64_t chunks() const;  // of 64 / n tokens, through all sequences
};

struct Forward {
  Values o, finalState, finalZ;
  Values states;  // [chunks,HV,K,V] at their starts
  Values u;       // [B,T*n,HV,V] rows as they are written: beta (v - S^T k), or v
};

struct Gradients {
  Values dq, dk, dv, dg, dbeta;  // with respect to the arguments as given
  Values dInitialState, dInitialZ, dALog, dDtBias;
  Values states;  // [chunks,HV,K,V] dS at their ends
  Values w;       // [B,T*n,HV,V] gradients of u
};

// Traces are left empty with normalize.
Forward forward(const Problem& problem);
Gradients backward(const Problem& problem);

}  // namespace rankone::reference
