// Local linear attention and its gradients. See local_linear.inl and local_linear_backward.inl.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/attention.h"

namespace rankone {

struct LocalLinearArgs {
  AttentionArgs attention;  // without sinks, gate, softcap and lse; o null in a backward
  const float* lambda;      // [tokens of q,H], or [H]
  bool lambdaOfHead;        // the second
  float tolerance;          // of residuals, relative to what they began as
  int64_t maxIterations;
  float* solution;  // [tokens of q,H,K], or null
  float* residual;  // [tokens of q,H], or null: that of the solution, in a backward that of the second one
};

struct LocalLinearBackwardArgs {
  LocalLinearArgs forward;
  const float* solved;  // the forward's solution, or null
  const void* dO;       // [tokens of q,H,V], of q's dtype
  void* dq;             // the gradients have the shapes of what they belong to
  void* dk;
  void* dv;
  float* dLambda;
  DType gradDType;  // of dq, dk, dv
};

// Rows of a sequence's queries that share a head of keys, as in AttentionItem.
struct LocalLinearItem {
  const AttentionSequence* sequence;
  int64_t head, row, rows;
};

struct LocalLinearPlan {
  std::vector<LocalLinearItem> items;
  int64_t cost = 0;  // of an item on average, in flops
};

// By shape alone.
LocalLinearPlan planLocalLinear(const AttentionArgs& args);

void localLinear(const LocalLinearArgs& args);
void localLinearBackward(const LocalLinearBackwardArgs& args);

}  // namespace rankone
