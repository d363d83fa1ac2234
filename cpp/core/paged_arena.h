// Memory for many objects of mixed sizes that come and go: slabs of huge pages, cut into pages of 4 KB, of which an
// object takes a run. Runs are freed from any thread; neighbours become one again, and a slab without runs goes back to
// the system.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/workspace.h"

namespace rankone {

class PagedArena {
  struct Slab;

 public:
  static constexpr size_t kPage = 4096, kSlab = size_t{2} << 20;

  PagedArena();
  ~PagedArena();

  // Owns pages, and keeps the arena. Aligned to 4 KB.
  class Run {
   public:
    Run() = default;
    Run(Run&& other) noexcept { swap(other); }
    Run& operator=(Run&& other) noexcept {
      swap(other);
      return *this;
    }
    ~Run() {
      if (slab_) arena_->release(*slab_, first_, count_);
    }
    void* data() const;
    size_t bytes() const { return count_ * kPage; }

   private:
    friend class PagedArena;
    void swap(Run& other) {
      std::swap(arena_, other.arena_);
      std::swap(slab_, other.slab_);
      std::swap(first_, other.first_);
      std::swap(count_, other.count_);
    }
    std::shared_ptr<PagedArena> arena_;
    Slab* slab_ = nullptr;
    size_t first_ = 0, count_ = 0;
  };

  // The first run of free pages that is long enough, or one of a new slab. Throws std::bad_alloc, and then nothing has
  // changed.
  static Run allocate(const std::shared_ptr<PagedArena>& arena, size_t bytes);

  struct Usage {
    size_t usedBytes = 0, reservedBytes = 0, largestFreeBytes = 0;
  };
  Usage usage() const;
  size_t reservedBytes() const { return reserved_.load(); }

 private:
  void release(Slab& slab, size_t first, size_t count) noexcept;

  mutable std::mutex lock_;
  std::vector<std::unique_ptr<Slab>> slabs_;  // under lock_
  std::atomic<size_t> reserved_{0};
};

}  // namespace rankone
