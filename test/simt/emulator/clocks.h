// Vector clocks: what a thread knows to have happened before it. A component counts for each thread of the block, then
// for each actor beside them: a warp's wgmma reads, an mbarrier's copies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace simt::emulator {

// A pointer that counts its holders; not for several threads of the machine.
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* p) : p_(p) { grab(); }
  Ref(const Ref& other) : p_(other.p_) { grab(); }
  Ref(Ref&& other) noexcept : p_(std::exchange(other.p_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(p_, other.p_);
    return *this;
  }
  ~Ref() {
    if (p_ && --p_->holders == 0) delete p_;
  }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  T* get() const { return p_; }
  explicit operator bool() const { return p_ != nullptr; }

 private:
  void grab() {
    if (p_) ++p_->holders;
  }
  T* p_ = nullptr;
};

using Counts = std::vector<uint32_t>;

inline void raise(Counts& to, const Counts& from) {
  const size_t n = from.size();
  if (to.size() < n) to.resize(n);
  for (size_t i = 0; i < n; ++i) to[i] = std::max(to[i], from[i]);
}

// Of other blocks, by their serial numbers: known only through acquire and release.
struct Foreign {
  int holders = 0;
  std::map<uint32_t, Counts> blocks;
};

inline void raise(std::map<uint32_t, Counts>& to, const std::map<uint32_t, Counts>& from) {
  for (const auto& [block, counts] : from) {
    Counts& mine = to[block];
    if (mine.empty()) {
      mine = counts;
    } else {
      raise(mine, counts);
    }
  }
}

inline Ref<Foreign> joined(const Ref<Foreign>& a, const Ref<Foreign>& b) {
  if (!b || a.get() == b.get()) return a;
  if (!a) return b;
  Ref<Foreign> both(new Foreign{0, a->blocks});
  raise(both->blocks, b->blocks);
  return both;
}

// Never changed once shared: threads that met at a barrier hold the same one.
struct Clocks {
  int holders = 0;
  Counts counts;
  Ref<Foreign> foreign;
};

inline Ref<Clocks> joined(const Ref<Clocks>& a, const Ref<Clocks>& b) {
  if (!b || a.get() == b.get()) return a;
  Ref<Clocks> both(new Clocks{0, a->counts, joined(a->foreign, b->foreign)});
  raise(both->counts, b->counts);
  return both;
}

// Collects what several threads know.
class Gathering {
 public:
  void add(const Ref<Clocks>& known) {
    if (known.get() != last_.get()) {
      raise(counts_, known->counts);
      foreign_ = joined(foreign_, known->foreign);
    }
    last_ = known;
  }
  void add(int component, uint32_t count) {
    if (counts_.size() <= static_cast<size_t>(component)) counts_.resize(component + 1);
    counts_[component] = std::max(counts_[component], count);
  }
  // Ends the gathering.
  Ref<Clocks> take() {
    Ref<Clocks> all(new Clocks{0, std::move(counts_), std::move(foreign_)});
    *this = Gathering();
    return all;
  }

 private:
  Counts counts_;
  Ref<Foreign> foreign_;
  Ref<Clocks> last_;
};

}  // namespace simt::emulator
