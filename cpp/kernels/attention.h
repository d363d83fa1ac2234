// Softmax attention and its gradients. See attention.inl and attention_backward.inl.
#pragma once
#include <cstdint>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

constexpr int64_t kMaxHeadDim = 1024;

// Which positions a query sees: none after its own where `causal`; the first `first` ones always, of the others those
// from `left` before its own to `right` after it.
struct AttentionMask {
  bool causal = true;
  int64_t left = int64_t{1} << 60, right = int64_t{1} << 60, first = 0;
};

// T queries and the keys and values that they may see: first those of a cache's slot, then S in the tensors. The last
// query has the position of the last key.
struct AttentionSequence {
  int64_t q, T;  // row of the first token in q, and how many
  int64_t k, S;  // the same in k and v
  int64_t cached = 0, slot = 0;
  int64_t keys() const { return cached + S; }
  int64_t offset() const { return keys() - T; }  // position of the first query, negative where there are more of them
};

// What calls before this one have left. Position p of a slot stands in row rowOf(p).
struct AttentionCache {
  const void* k = nullptr;  // [slots,HKV,capacity,K]
  const void* v = nullptr;  // [slots,HKV,capacity,V]
  int64_t capacity = 0;
  int64_t first = 0;  // positions that stay; the others take turns
  int64_t rowOf(int64_t p) const { return p < first ? p : first + (p - first) % (capacity - first); }
  // How many positions from p on stand in rows that follow each other.
  int64_t runAt(int64_t p) const { return p < first ? first - p : capacity - rowOf(p); }
};

struct AttentionArgs {
  const void* q;                     // [tokens of q,H,K]
  const void* k;                     // [tokens of k,HKV,K]
  const void* v;                     // [tokens of k,HKV,V]
  const float* sinks;                // [H], or null
  const void* gate;                  // [tokens of q,H,V], or null
  void* o;                           // [tokens of q,H,V]
  float* lse;                        // [tokens of q,H], or null
  DType dtype, keyDType, gateDType;  // of q; of k, v and the cache; of the gate
  DType oDType;
  int64_t H, HKV, K, V;
  float scale, softcap;  // softcap 0: none
  AttentionMask mask;
  AttentionCache cache;  // k null: none
  const std::vector<AttentionSequence>* sequences;
  const CancelFlag* cancel = nullptr;
};

struct AttentionBackwardArgs {
  AttentionArgs forward;  // o and lse: what it left; a cache it has none
  const void* dO;         // [tokens of q,H,V], of q's dtype
  const float* dLse;      // [tokens of q,H], or null
  void* dq;               // the gradients have the shapes of what they belong to
  void* dk;
  void* dv;
  float* dSinks;                // null without sinks
  void* dGate;                  // null without a gate
  DType gradDType, dGateDType;  // gradDType: of dq, dk, dv
};

void attention(const AttentionArgs& args);
void attentionBackward(const AttentionBackwardArgs& args);

}  // namespace rankone
