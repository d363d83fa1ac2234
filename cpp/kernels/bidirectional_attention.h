// Linear attention without order, and its gradients. See bidirectional_attention.inl.
#pragma once
#include <cstdint>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"
#include "kernels/feature_map.h"

namespace rankone {

// T queries and the S keys and values that all of them see.
struct BidirectionalSequence {
  int64_t q, T;  // row of the first token in q, and how many
  int64_t k, S;  // the same in k and v
};

struct BidirectionalArgs {
  const void* q;        // [tokens of q,H,K]
  const void* k;        // [tokens of k,HKV,K]
  const void* v;        // [tokens of k,HKV,V]
  FloatView alpha;      // [tokens of k,HKV], or null: ones
  FloatView modulate;   // [tokens of q,H,V], or null
  FloatView qWeight;    // [H,K,D], or null
  FloatView kWeight;    // [HKV,K,D], or null
  bool sharedWeights;   // [K,D] of both in place of these
  void* o;              // [tokens of q,H,V]
  DType dtype, oDType;  // of q, k, v; of o
  int64_t H, HKV, K, V;
  int64_t keyTokens;  // of all sequences
  FeatureForm form;   // of q and k alike
  bool normalize, rankAugmented;
  float scale, eps;
  const std::vector<BidirectionalSequence>* sequences;
  const CancelFlag* cancel = nullptr;
};

struct BidirectionalBackwardArgs {
  BidirectionalArgs forward;  // but for o
  const void* dO;             // [tokens of q,H,V], of q's dtype
  void* dq;                   // the gradients have the shapes of what they belong to
  void* dk;
  void* dv;
  void* dAlpha;     // null without alpha
  void* dModulate;  // null without modulate
  void* dQWeight;   // null without qWeight
  void* dKWeight;   // null without kWeight
  DType gradDType;  // of dq, dk, dv
  DType dAlphaDType, dModulateDType, dQWeightDType, dKWeightDType;
};

void bidirectionalAttention(const BidirectionalArgs& args);
void bidirectionalAttentionBackward(const BidirectionalBackwardArgs& args);

}  // namespace rankone
