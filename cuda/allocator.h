// A stream's memory. What is released is kept for later requests of the same stream: work runs in the stream's order,
// so it may be given out again at once, while kernels that used it still run.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "runtime.h"

namespace rankone::cuda {

class Allocator {
 public:
  // RANKONE_CUDA_MEMORY. CACHED: as above. POISONED: the same, and filled with NaNs each time. DIRECT: every request
  // goes to the device and back, so that a memory checker knows where blocks end and what was never written.
  enum class Mode { CACHED, POISONED, DIRECT };
  struct Block {
    void* memory;
    size_t bytes;
  };

  Allocator(int device, simt::Stream stream);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  // 256-byte aligned; size 0 gives null. May be released by any thread.
  void* allocate(size_t bytes);
  void release(void* memory);
  void trim();
  void count(uint64_t* used, uint64_t* reserved);

  // What is allocated and released while a graph is recorded stays the graph's: it writes there whenever it is
  // launched.
  void beginCapture();
  std::vector<Block> endCapture();
  void give(const std::vector<Block>& blocks);  // back to the cache

 private:
  using Cache = std::multimap<size_t, void*>;
  void* take(Cache& cache, size_t bytes);
  void* grow(size_t bytes);

  const int device_;
  const simt::Stream stream_;
  const Mode mode_;
  std::mutex mutex_;  // of what follows
  std::unordered_map<void*, size_t> live_;
  Cache idle_, captured_;
  bool capturing_ = false;
  uint64_t used_ = 0, reserved_ = 0;
};

}  // namespace rankone::cuda
