// The recurrent state of a decode, [N,HV,K,V] float32, owned by the engine and advanced in place. With key heads it
// also holds z, [N,H,K], the running sum of keys that `normalize` divides by.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

#include "core/cuda.h"
#include "core/workspace.h"

namespace rankone {

class StateBuffer {
 public:
  // On a device where one is given.
  StateBuffer(int64_t batch, int64_t valueHeads, int64_t keyDim, int64_t valueDim, int64_t keyHeads,
              std::shared_ptr<cuda::Context> device = nullptr);

  const int64_t batch, valueHeads, keyDim, valueDim;
  const int64_t keyHeads;  // 0: no z
  const std::shared_ptr<cuda::Context> device;
  float* data() const { return deviceBuffer_ ? static_cast<float*>(deviceBuffer_->data()) : buffer_.f32(); }
  float* z() const { return keyHeads ? data() + size() : nullptr; }
  int64_t size() const { return batch * valueHeads * keyDim * valueDim; }
  int64_t zSize() const { return batch * keyHeads * keyDim; }
  size_t bytes() const { return static_cast<size_t>(size() + zSize()) * sizeof(float); }

  // Host memory; what is on a device is waited for. z may be null.
  void read(float* state, float* z) const;
  void write(const float* state, const float* z);  // z null: zeros
  void copyFrom(const StateBuffer& other);         // of the same dimensions and place

  // Held by the call that uses the state; a second taker gets Error(State).
  void acquire();
  void release() { busy_.store(false); }
  void dispose();

  bool poisoned = false;  // an aborted call left it half advanced

 private:
  AlignedBuffer buffer_;
  std::shared_ptr<cuda::Buffer> deviceBuffer_;
  std::atomic<bool> busy_{false};
  bool disposed_ = false;
};

}  // namespace rankone
