// The recurrence grid token by token in float64, and its reverse mode, as plainly as they can be written:
//   S <- diag(e^g) S;  n times S <- S + k u^T, u = v (additive) or beta (v - S^T k) (delta);  o = scale S^T q.
#pragma once
#include "array.h"
#include "random.h"

namespace rankone::test {

enum class Gate { None, Head, Token, Channel };

struct Sizes {
  int64_t B = 1, T = 1, H = 1, HV = 1, K = 1, V = 1, n = 1;
  Gate gate = Gate::None;
  bool delta = false;
};

// Arguments by their names in the engine; what is empty is absent.
struct GridValues {
  Values q, k, v, g, beta, initialState, dO, dFinalState;
  double scale = 1;
};

struct GridForward {
  Values o, finalState;
};

struct GridGradients {
  Values dq, dk, dv, dg, dbeta, dInitialState;
};

GridForward referenceForward(const Sizes& sizes, const GridValues& values);
GridGradients referenceBackward(const Sizes& sizes, const GridValues& values);

// Every value off by at most one rounding of float32. How far the results move says what float32 can know of them.
GridValues shaken(GridValues values, Random& random);

}  // namespace rankone::test
