// Pinned host memory between the caller's and the device's: copies run in the stream, and the caller's memory is free
// at once.
#pragma once
#include <cstddef>
#include <vector>

#include "runtime.h"

namespace rankone::cuda {

class Staging {
 public:
  explicit Staging(simt::Stream stream) : stream_(stream) {}
  ~Staging();  // the stream has been waited for
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void upload(void* to, const void* from, size_t bytes);
  void download(void* to, const void* from, size_t bytes);  // waits

  // Uploads of a recorded graph keep memory of their own.
  void beginCapture() { capturing_ = true; }
  std::vector<void*> endCapture();

 private:
  struct Slot {
    char* memory = nullptr;
    size_t used = 0;
    runtime::Event event = nullptr;  // recorded when the slot is left
  };
  void prepare(Slot& slot);
  Slot& slotWithRoom();

  static constexpr size_t kSlotBytes = size_t{1} << 20;
  static constexpr int kSlots = 4;

  const simt::Stream stream_;
  Slot up_[kSlots], down_[2];
  int current_ = 0;
  bool capturing_ = false;
  std::vector<void*> captured_;
};

}  // namespace rankone::cuda
