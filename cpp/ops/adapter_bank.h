// The adapters of one layer [out, in], thousands of them and of any ranks, in pages of one arena or on a device.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/cuda.h"
#include "core/paged_arena.h"
#include "kernels/lora.h"

namespace rankone {

// What is in a bank: never changed once it is there, and kept by the calls that use it.
struct StoredAdapter {
  LoraAdapter adapter;  // into memory; on a device only its numbers, and whether a part is there
  PagedArena::Run memory;
  RankoneAdapter onDevice{};  // into deviceMemory
  std::shared_ptr<cuda::Buffer> deviceMemory;
  // Sizes as loaded, from which those in use may differ; 0: none, or an index list.
  int64_t aRows = 0, bColumns = 0;
  int64_t midRows = 0, midColumns = 0;  // a diagonal has no rows
  int64_t rankBias = 0;
};

class AdapterBank {
 public:
  AdapterBank(int64_t in, int64_t out, std::shared_ptr<cuda::Context> device = nullptr)
      : in(in), out(out), device(std::move(device)), arena(std::make_shared<PagedArena>()) {}

  const int64_t in, out;
  const std::shared_ptr<cuda::Context> device;  // null: on the CPU
  const std::shared_ptr<PagedArena> arena;
  // Of a device's memory, also what evicted adapters have that calls still use.
  const std::shared_ptr<std::atomic<size_t>> deviceBytes = std::make_shared<std::atomic<size_t>>(0);
  size_t reservedBytes() const { return device ? deviceBytes->load() : arena->reservedBytes(); }

  // Each is one step: a call finds an adapter as it was before or as it is afterwards.
  int32_t add(std::shared_ptr<const StoredAdapter> adapter);               // its id, never used again
  bool replace(int32_t id, std::shared_ptr<const StoredAdapter> adapter);  // false: no such adapter
  bool evict(int32_t id);
  void clear();

  std::shared_ptr<const StoredAdapter> find(int32_t id) const;  // null: no such adapter
  std::vector<int32_t> ids() const;                             // ascending
  size_t size() const;

 private:
  mutable std::mutex lock_;
  std::map<int32_t, std::shared_ptr<const StoredAdapter>> adapters_;  // under lock_
  int64_t next_ = 0;                                                  // under lock_
};

}  // namespace rankone
