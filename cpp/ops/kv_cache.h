// Keys and values of the tokens that the slots of a decode have seen, owned by the engine: [slots,HKV,capacity,K] and
// [slots,HKV,capacity,V]. Without a window a slot holds all its tokens, up to `capacity` of them; with one the first
// `sinkTokens` and the last `window`, in a ring behind those.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "core/workspace.h"
#include "kernels/attention.h"

namespace rankone {

// Beyond any head: a cache beside a state holds a key and its features in one row.
constexpr int64_t kMaxCacheWidth = 65536;

class KvCache {
 public:
  // window 0: none, and no sinkTokens either.
  KvCache(int64_t slots, int64_t kvHeads, int64_t keyDim, int64_t valueDim, int64_t capacity, int64_t window,
          DType dtype);

  const int64_t slots, kvHeads, keyDim, valueDim;
  const int64_t capacity;  // rows of a head
  const int64_t window, sinkTokens;
  const DType dtype;

  int64_t length(int64_t slot) const { return lengths_[static_cast<size_t>(slot)]; }  // tokens seen
  int64_t held(int64_t slot) const { return std::min(length(slot), capacity); }
  void reset(int64_t slot) { lengths_[static_cast<size_t>(slot)] = folded_[static_cast<size_t>(slot)] = 0; }
  // How many of the slot's first tokens a state beside the cache has taken in (windowLinearAttention).
  int64_t folded(int64_t slot) const { return folded_[static_cast<size_t>(slot)]; }
  void setFolded(int64_t slot, int64_t tokens) { folded_[static_cast<size_t>(slot)] = tokens; }
  // Forgets all but the first tokens: of a ring only while nothing of what stays has been overwritten.
  void truncate(int64_t slot, int64_t length);
  AttentionCache view() const { return {k_.data(), v_.data(), capacity, sinkTokens}; }
  size_t bytes() const { return k_.bytes() + v_.bytes(); }

  // k [count,HKV,K] and v [count,HKV,V], of the cache's dtype, behind the slot's tokens.
  void append(int64_t slot, int64_t count, const void* k, const void* v);
  // What the slot holds, in order of position: [held,HKV,K] and [held,HKV,V].
  void read(int64_t slot, void* k, void* v) const;

  // Held by the call that uses it; a second taker gets Error(State).
  void acquire();
  void release() { busy_.store(false); }
  void dispose();

 private:
  template <class F>
  void forRows(int64_t slot, int64_t begin, int64_t end, F&& f) const;

  AlignedBuffer k_, v_;
  std::vector<int64_t> lengths_, folded_;
  std::atomic<bool> busy_{false};
  bool disposed_ = false;
};

}  // namespace rankone
