#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "simt/emulator.h"

namespace simt::emulator {

unsigned char* space;
GlobalCell* globalCells;
bool shadowed;

namespace {

constexpr size_t ALIGNMENT = 256;
constexpr size_t RED_ZONE = 256;  // after each allocation, and before the first

std::mutex mutex;
std::map<size_t, size_t> used;      // offset in global memory -> bytes asked for
std::map<size_t, size_t> released;  // offset -> bytes, not adjacent to one another
size_t top = RED_ZONE;
size_t slots = 0;

void* map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("simt: no address space for the emulated memory");
    std::abort();
  }
  return memory;
}

size_t spacious(size_t bytes) { return (bytes + RED_ZONE + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

size_t place(size_t bytes) {
  for (auto it = released.begin(); it != released.end(); ++it) {
    if (it->second < bytes) continue;
    const size_t offset = it->first, rest = it->second - bytes;
    released.erase(it);
    if (rest) released[offset + bytes] = rest;
    return offset;
  }
  const size_t offset = top;
  top += bytes;
  return offset;
}

void setState(size_t offset, size_t bytes, uint32_t state) {
  if (!shadowed) return;
  for (size_t i = 0; i < bytes; ++i) {
    GlobalCell& cell = globalCells[offset + i];
    if (cell.state != state) cell = {0, {0, 0}, 0, {0, 0}, state};
  }
}

}  // namespace

void createSpace() {
  if (space) return;
  unsigned char* memory = static_cast<unsigned char*>(map(SPACE + SHARED_SLOT));
  // So that the low bits of an address are the offset in its slot.
  const size_t misfit = reinterpret_cast<size_t>(memory) % SHARED_SLOT;
  space = memory + (misfit ? SHARED_SLOT - misfit : 0);
  globalCells = static_cast<GlobalCell*>(map(GLOBAL_SPACE * sizeof(GlobalCell)));
}

unsigned char* takeSharedSlot() {
  const std::lock_guard<std::mutex> hold(mutex);
  if (slots == SHARED_SLOTS) {
    std::fprintf(stderr, "simt: more than %zu blocks at once\n", SHARED_SLOTS);
    std::abort();
  }
  return space + SHARED_SLOT * slots++;
}

void* allocate(size_t bytes, bool initialised) {
  const std::lock_guard<std::mutex> hold(mutex);
  createSpace();
  const size_t offset = place(spacious(bytes));
  if (top > GLOBAL_SPACE) {
    std::fprintf(stderr, "simt: out of emulated memory\n");
    std::abort();
  }
  used[offset] = bytes;
  unsigned char* p = space + SHARED_SPACE + offset;
  if (!initialised) std::memset(p, 0xff, bytes);
  setState(offset, bytes, initialised ? ALLOCATED | INITIALISED : ALLOCATED);
  return p;
}

void free(void* pointer) {
  if (!pointer) return;
  const std::lock_guard<std::mutex> hold(mutex);
  const auto found = isGlobal(pointer) ? used.find(offsetOf(pointer) - SHARED_SPACE) : used.end();
  if (found == used.end()) {
    std::fprintf(stderr, "simt: free of a pointer that allocate did not return\n");
    std::abort();
  }
  size_t offset = found->first, bytes = found->second;
  used.erase(found);
  setState(offset, bytes, 0);
  // Late users see NaNs.
  std::memset(pointer, 0xff, bytes);
  bytes = spacious(bytes);
  const auto after = released.find(offset + bytes);
  if (after != released.end()) {
    bytes += after->second;
    released.erase(after);
  }
  const auto next = released.lower_bound(offset);
  if (next != released.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      offset = before->first;
      bytes += before->second;
      released.erase(before);
    }
  }
  if (offset + bytes == top) {
    top = offset;
    released.erase(offset);
  } else {
    released[offset] = bytes;
  }
}

void markInitialised(const void* pointer, size_t bytes) {
  if (!shadowed) return;
  const std::lock_guard<std::mutex> hold(mutex);
  for (size_t i = 0; i < bytes; ++i) {
    GlobalCell& cell = globalCell(static_cast<const unsigned char*>(pointer) + i);
    cell.state |= INITIALISED;
  }
}

}  // namespace simt::emulator
