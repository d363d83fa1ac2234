// The recurrent state of a decode, [N,HV,K,V] float32, owned by the engine and advanced in place. With key heads it
// also holds z, [N,H,K], the running sum of keys that `normalize` divides by.
#pragma once
#include <atomic>
#include <cstdint>

#include "core/workspace.h"

namespace rankone {

class StateBuffer {
 public:
  StateBuffer(int64_t batch, int64_t valueHeads, int64_t keyDim, int64_t valueDim, int64_t keyHeads);

  const int64_t batch, valueHeads, keyDim, valueDim;
  const int64_t keyHeads;  // 0: no z
  float* data() const { return buffer_.f32(); }
  float* z() const { return keyHeads ? data() + size() : nullptr; }
  int64_t size() const { return batch * valueHeads * keyDim * valueDim; }
  int64_t zSize() const { return batch * keyHeads * keyDim; }
  size_t bytes() const { return static_cast<size_t>(size() + zSize()) * sizeof(float); }

  // Held by the call that uses the state; a second taker gets Error(State).
  void acquire();
  void release() { busy_.store(false); }
  void dispose();

  bool poisoned = false;  // an aborted call left it half advanced

 private:
  AlignedBuffer buffer_;
  std::atomic<bool> busy_{false};
  bool disposed_ = false;
};

}  // namespace rankone
