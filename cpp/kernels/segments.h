// Sequences cut into segments: what a segment does to the state, and how the segments' effects follow each other.
#pragma once
#include "kernels/recurrence.h"

namespace rankone {

// What the gates of a sequence leave of its state, the product of the decays: out [N,HV], by channel [N,HV,K]. Additive
// cells only: there it is the whole of a segment's transition.
void gateTransitions(const RecurrenceProblem& p, float* out);

// dg += that of the transitions, times the transitions: dTransition as out above, dg as g, or by head [HV].
void gateTransitionGradients(const RecurrenceProblem& p, const float* dTransition, float* dg);

// Sums of keys, [N,H,K].
void keySums(const RecurrenceProblem& p, float* out);

enum class Transition : uint8_t { Scalar, Diagonal, Matrix };

// S_r = M_r S_(r-1) + N_r over R segments of `heads` independent states [K,V].
struct SegmentChain {
  int64_t R, heads, K, V;
  Transition kind;
  const float* transitions;   // M: [R,heads], [R,heads,K] or [R,heads,K,K]
  const float* initialState;  // [heads,K,V] or null: zeros, and M of the first segment is not read
  const CancelFlag* cancel;

  int64_t state(int64_t r, int64_t head) const { return (r * heads + head) * K * V; }
  int64_t transitionSize() const { return kind == Transition::Scalar ? 1 : kind == Transition::Diagonal ? K : K * K; }
};

struct SegmentStates : SegmentChain {
  const float* states;   // N: [R,heads,K,V]
  float* initialStates;  // S_(r-1): [R,heads,K,V]
  float* finalState;     // [heads,K,V]
};

struct SegmentGradients : SegmentChain {
  const float* initialStates;   // as above, for dTransitions
  const float* dInitialStates;  // [R,heads,K,V]
  const float* dFinalState;     // [heads,K,V] or null: zeros, and M of the last segment is not read
  float* dStates;               // [R,heads,K,V]
  float* dTransitions;          // as M, or null
  float* dInitialState;         // [heads,K,V] or null
};

void composeStates(const SegmentStates& args);
void composeStatesBackward(const SegmentGradients& args);

}  // namespace rankone
