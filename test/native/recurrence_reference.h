// The recurrence grid token by token in float64, and its reverse mode, as plainly as they can be written:
//   S <- diag(e^g) S;  n times S <- S + k u^T, u = v (additive) or beta (v - S^T k) (delta);  o = scale S^T q.
#pragma once
#include "array.h"
#include "random.h"

namespace rankone::test {

enum class Gate { None, Head, Token, Channel };

// What stands before or after the recurrence itself.
struct Fused {
  bool qkL2norm = false;
  bool gate = false;       // of a token or a channel: aLog
  bool dtBias = false;     // beside aLog
  double lowerBound = 0;   // 0: -e^aLog softplus, else that times sigmoid
  double betaMost = 0;     // 0: none, 1: sigmoid, 2: twice that
  bool normalize = false;  // additive without gate
};

struct Sizes {
  int64_t B = 1, T = 1, H = 1, HV = 1, K = 1, V = 1, n = 1;
  Gate gate = Gate::None;
  bool delta = false;
  Fused fused = {};
};

// Arguments by their names in the engine; what is empty is absent.
struct GridValues {
  Values q, k, v, g, beta, initialState, dO, dFinalState;
  double scale = 1;
  Values aLog = {}, dtBias = {}, initialZ = {}, dFinalZ = {};
};

struct GridForward {
  Values o, finalState, finalZ;
};

struct GridGradients {
  Values dq, dk, dv, dg, dbeta, dInitialState, dALog, dDtBias, dInitialZ;
};

// The recurrence alone, whatever sizes.fused says.
GridForward plainForward(const Sizes& sizes, const GridValues& values);
GridGradients plainBackward(const Sizes& sizes, const GridValues& values);

// With what is fused to it.
GridForward referenceForward(const Sizes& sizes, const GridValues& values);
GridGradients referenceBackward(const Sizes& sizes, const GridValues& values);

// Every value off by at most one rounding of float32. How far the results move says what float32 can know of them.
GridValues shaken(GridValues values, Random& random);

}  // namespace rankone::test
