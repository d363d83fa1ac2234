#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include "allocator.h"
#include "stream.h"

namespace rankone::cuda {
namespace {

constexpr int kOutOfMemory = 2;       // cudaErrorMemoryAllocation
constexpr size_t kSmall = 256 << 10;  // such blocks also serve requests of half their size

// Every allocator, for one that finds the device full because of what others keep.
std::mutex registryMutex;
std::set<Allocator*>& registry() {
  static auto* all = new std::set<Allocator*>;  // streams may outlive static objects
  return *all;
}

// Sizes of blocks: eight to an octave, so that requests that differ little find each other's blocks.
size_t roundedSize(size_t bytes) {
  size_t octave = 512;
  while (octave <= bytes / 2) octave *= 2;
  const size_t step = std::max<size_t>(octave / 8, 256);
  return (bytes + step - 1) / step * step;
}

Allocator::Mode modeFromEnvironment() {
  const char* name = std::getenv("RANKONE_CUDA_MEMORY");
  if (name && !std::strcmp(name, "direct")) return Allocator::Mode::DIRECT;
  if (name && !std::strcmp(name, "poisoned")) return Allocator::Mode::POISONED;
  return Allocator::Mode::CACHED;
}

}  // namespace

Allocator::Allocator(int device, simt::Stream stream) : device_(device), stream_(stream), mode_(modeFromEnvironment()) {
  const std::lock_guard<std::mutex> lock(registryMutex);
  registry().insert(this);
}

// The stream has been waited for.
Allocator::~Allocator() {
  {
    const std::lock_guard<std::mutex> lock(registryMutex);
    registry().erase(this);
  }
  for (const auto& entry : live_) runtime::free(entry.first);
  for (const Cache* cache : {&idle_, &captured_})
    for (const auto& entry : *cache) runtime::free(entry.second);
}

void* Allocator::take(Cache& cache, size_t bytes) {
  const auto found = cache.lower_bound(bytes);
  if (found == cache.end() || found->first > (bytes <= kSmall ? 2 * bytes : bytes + bytes / 4)) return nullptr;
  void* memory = found->second;
  live_.emplace(memory, found->first);
  used_ += found->first;
  cache.erase(found);
  return memory;
}

void* Allocator::grow(size_t bytes) {
  void* memory = nullptr;
  simt::Status status = runtime::allocate(&memory, bytes);
  if (status == kOutOfMemory) {
    runtime::clearError();
    trim();
    status = runtime::allocate(&memory, bytes);
  }
  if (status == kOutOfMemory) {
    runtime::clearError();
    {
      const std::lock_guard<std::mutex> lock(registryMutex);
      for (Allocator* other : registry())
        if (other->device_ == device_) other->trim();
    }
    status = runtime::allocate(&memory, bytes);
  }
  if (status == kOutOfMemory) {
    runtime::clearError();
    throw Failure(status, "out of memory: " + std::to_string(bytes) + " bytes asked for");
  }
  expect(status, "allocating memory");
  return memory;
}

void* Allocator::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  if (bytes > SIZE_MAX / 2) throw Failure(kOutOfMemory, "out of memory: " + std::to_string(bytes) + " bytes asked for");
  const size_t size = mode_ == Mode::DIRECT ? bytes : roundedSize(bytes);
  void* memory = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (capturing_) memory = take(captured_, size);
    if (!memory && mode_ != Mode::DIRECT) memory = take(idle_, size);
  }
  if (!memory) {
    memory = grow(size);
    const std::lock_guard<std::mutex> lock(mutex_);
    live_.emplace(memory, size);
    used_ += size;
    reserved_ += size;
  }
  if (mode_ == Mode::POISONED) expect(runtime::fill(stream_, memory, 0xff, size), "filling memory");
  return memory;
}

void Allocator::release(void* memory) {
  if (!memory) return;
  std::unique_lock<std::mutex> lock(mutex_);
  const auto found = live_.find(memory);
  if (found == live_.end()) return;
  const size_t bytes = found->second;
  live_.erase(found);
  used_ -= bytes;
  if (capturing_) {
    captured_.emplace(bytes, memory);
  } else if (mode_ == Mode::DIRECT) {
    reserved_ -= bytes;
    lock.unlock();
    runtime::freeAfter(stream_, memory);
  } else {
    idle_.emplace(bytes, memory);
  }
}

void Allocator::trim() {
  Cache idle;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle.swap(idle_);
    for (const auto& entry : idle) reserved_ -= entry.first;
  }
  for (const auto& entry : idle) runtime::free(entry.second);
}

void Allocator::count(uint64_t* used, uint64_t* reserved) {
  const std::lock_guard<std::mutex> lock(mutex_);
  *used = used_;
  *reserved = reserved_;
}

void Allocator::beginCapture() {
  const std::lock_guard<std::mutex> lock(mutex_);
  capturing_ = true;
}

std::vector<Allocator::Block> Allocator::endCapture() {
  const std::lock_guard<std::mutex> lock(mutex_);
  capturing_ = false;
  std::vector<Block> blocks;
  for (const auto& entry : captured_) blocks.push_back({entry.second, entry.first});
  captured_.clear();
  return blocks;
}

void Allocator::give(const std::vector<Block>& blocks) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Block& block : blocks) idle_.emplace(block.bytes, block.memory);
}

}  // namespace rankone::cuda
