#include "core/paged_arena.h"

#include <algorithm>
#include <limits>
#include <new>

namespace rankone {

struct PagedArena::Slab {
  explicit Slab(size_t count) : memory(count * kPage), taken(count, false), largestFree(count) {}

  char* page(size_t i) const { return static_cast<char*>(memory.data()) + i * kPage; }
  size_t pages() const { return taken.size(); }

  // The first free run of at least `count` pages; pages() if there is none.
  size_t find(size_t count) const {
    size_t free = 0;
    for (size_t i = 0; i < pages(); ++i) {
      free = taken[i] ? 0 : free + 1;
      if (free == count) return i + 1 - count;
    }
    return pages();
  }

  void mark(size_t first, size_t count, bool value) noexcept {
    std::fill_n(taken.begin() + static_cast<ptrdiff_t>(first), count, value);
    largestFree = used = 0;
    size_t free = 0;
    for (const bool t : taken) {
      used += t;
      free = t ? 0 : free + 1;
      largestFree = std::max(largestFree, free);
    }
  }

  AlignedBuffer memory;
  std::vector<bool> taken;
  size_t used = 0, largestFree;  // pages
};

PagedArena::PagedArena() = default;
PagedArena::~PagedArena() = default;

void* PagedArena::Run::data() const { return slab_ ? slab_->page(first_) : nullptr; }

PagedArena::Run PagedArena::allocate(const std::shared_ptr<PagedArena>& arena, size_t bytes) {
  if (bytes > std::numeric_limits<size_t>::max() / 2) throw std::bad_alloc();
  const size_t count = std::max<size_t>(1, (bytes + kPage - 1) / kPage);
  std::lock_guard<std::mutex> hold(arena->lock_);
  std::vector<std::unique_ptr<Slab>>& slabs = arena->slabs_;
  auto slab = std::find_if(slabs.begin(), slabs.end(), [&](const auto& s) { return s->largestFree >= count; });
  if (slab == slabs.end()) {
    constexpr size_t pages = kSlab / kPage;
    slabs.push_back(std::make_unique<Slab>((count + pages - 1) / pages * pages));
    slab = slabs.end() - 1;
    arena->reserved_ += (*slab)->memory.bytes();
  }
  Run run;
  run.first_ = (*slab)->find(count);
  run.count_ = count;
  run.slab_ = slab->get();
  run.arena_ = arena;
  run.slab_->mark(run.first_, count, true);
  if (poisonRequested()) poison(static_cast<float*>(run.data()), run.bytes() / sizeof(float));
  return run;
}

void PagedArena::release(Slab& slab, size_t first, size_t count) noexcept {
  std::lock_guard<std::mutex> hold(lock_);
  slab.mark(first, count, false);
  if (slab.used > 0) return;
  reserved_ -= slab.memory.bytes();
  std::erase_if(slabs_, [&](const auto& s) { return s.get() == &slab; });
}

PagedArena::Usage PagedArena::usage() const {
  std::lock_guard<std::mutex> hold(lock_);
  Usage usage;
  usage.reservedBytes = reserved_.load();
  for (const auto& slab : slabs_) {
    usage.usedBytes += slab->used * kPage;
    usage.largestFreeBytes = std::max(usage.largestFreeBytes, slab->largestFree * kPage);
  }
  return usage;
}

}  // namespace rankone
