#include "core/memory.h"

#include <cstdlib>
#include <limits>
#include <new>

#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__)
#include <sys/mman.h>
#endif

namespace rankone {

namespace {

// From one of these on, blocks are whole huge pages where the system grants them: one first touch where there were 512,
// and translations that the processor keeps at hand while saved states stream through.
constexpr size_t kHugePage = size_t{2} << 20;

#if defined(_WIN32)

// Large pages are a privilege there, and alignment to 2 MB would cost as much again.
void* systemAllocate(size_t bytes, bool large) { return _aligned_malloc(bytes, large ? 4096 : 64); }

#else

void* systemAllocate(size_t bytes, bool large) {
  void* p = nullptr;
  if (posix_memalign(&p, large ? kHugePage : 64, bytes) != 0) return nullptr;
#if defined(MADV_HUGEPAGE)
  if (large) madvise(p, bytes, MADV_HUGEPAGE);  // no more than a wish
#endif
  return p;
}

#endif

}  // namespace

void* allocateAligned(size_t bytes) {
  if (bytes > std::numeric_limits<size_t>::max() - 2 * kHugePage) throw std::bad_alloc();
  const bool large = bytes >= kHugePage;
  if (large) bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* p = systemAllocate(bytes ? bytes : 64, large);
  if (!p) throw std::bad_alloc();
  return p;
}

void freeAligned(void* memory) noexcept {
#if defined(_WIN32)
  _aligned_free(memory);
#else
  std::free(memory);
#endif
}

}  // namespace rankone
