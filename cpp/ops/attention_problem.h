// What the ops that attend to keys share: sizes, masks, packed sequences, and the cache whose keys come before the
// call's own.
#pragma once
#include <memory>
#include <vector>

#include "core/workspace.h"
#include "kernels/attention.h"
#include "ops/op.h"

namespace rankone {

// Where an op's inputs and options stand.
struct AttentionArguments {
  int q, k, v, cuSeqlens, cuSeqlensK, stateIndices;
  int causal, window, windowRight, sinkTokens, scale;
};

struct AttentionProblem {
  AttentionArgs args{};
  int64_t B = 0, T = 0, S = 0, N = 0;  // N: sequences
  std::vector<AttentionSequence> sequences;
};

// For plan(): each checks its part and fills it in, in this order.
void bindAttentionSizes(const Call& call, const AttentionArguments& at, AttentionProblem& p);
void bindAttentionMask(const Call& call, const AttentionArguments& at, AttentionProblem& p);
void bindAttentionSequences(const Call& call, const AttentionArguments& at, AttentionProblem& p);
// Forward only.
void bindAttentionCache(const Call& call, const AttentionArguments& at, AttentionProblem& p);

// For run(): the tensors, once their memory is known.
AttentionArgs attentionArgs(const Call& call, const AttentionArguments& at, const AttentionProblem& p);

// Beside a cache, what is attended to is what the cache will hold: keys and values in its dtype.
class CachedKeys {
 public:
  CachedKeys(const Call& call, const AttentionArguments& at, AttentionArgs& a);
  void append() const;  // to the cache, once all is computed

 private:
  const Call& call_;
  const AttentionArgs& a_;
  AlignedBuffer k_, v_;
};

}  // namespace rankone
