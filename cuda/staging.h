// Pinned host memory between the caller's and the device's: copies run in the stream, and the caller's memory is free
// at once. What waits in the stream takes further memory, up to a limit: only behind that does the caller wait.
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
  static constexpr size_t kMostSlots = 64;

  const simt::Stream stream_;
  std::vector<Slot> up_{1};  // a ring
  Slot down_[2];
  size_t current_ = 0;  // of up_; the one after it is the oldest
  bool capturing_ = false;
  std::vector<void*> captured_;
};

}  // namespace rankone::cuda
