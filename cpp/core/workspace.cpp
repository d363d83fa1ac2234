#include "core/workspace.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "core/memory.h"

namespace rankone {

namespace {

constexpr size_t kKeepBytes = size_t{32} << 20;  // what a thread keeps between calls

struct Arena {
  float* data = nullptr;
  size_t capacity = 0, used = 0, wanted = 0;  // floats; wanted: by all blocks that have been open at once
  ~Arena() { freeAligned(data); }
};

Arena& arena() {
  static thread_local Arena a;
  return a;
}

}  // namespace

bool poisonRequested() {
  static const bool on = [] {
    const char* v = std::getenv("RANKONE_POISON");
    return v && std::strcmp(v, "1") == 0;
  }();
  return on;
}

void poison(float* data, size_t count) {
  for (size_t i = 0; i < count; ++i) data[i] = std::numeric_limits<float>::quiet_NaN();
}

#ifdef RANKONE_SEPARATE_SCRATCH

Scratch::Scratch(size_t floats) : capacity_(alignFloats(floats)) {}
Scratch::~Scratch() = default;

float* Scratch::take(size_t floats) {
  const size_t n = alignFloats(floats);
  if (n > capacity_ - used_ || n > std::numeric_limits<size_t>::max() / sizeof(float)) throw std::bad_alloc();
  used_ += n;
  float* p = pieces_.emplace_back(n * sizeof(float)).f32();
  if (poisonRequested()) poison(p, n);
  return p;
}

#else

Scratch::Scratch(size_t floats) : capacity_(alignFloats(floats)) {
  Arena& a = arena();
  mark_ = a.used;
  const size_t needed = a.used + capacity_;
  if (needed > a.wanted && needed * sizeof(float) <= kKeepBytes) a.wanted = needed;
  if (a.wanted > a.capacity && a.used == 0) {
    freeAligned(a.data);
    a.data = nullptr;
    a.capacity = 0;
    a.data = static_cast<float*>(allocateAligned(a.wanted * sizeof(float)));
    a.capacity = a.wanted;
  }
  if (needed <= a.capacity) {
    begin_ = a.data + a.used;
    a.used = needed;
  } else {  // too large to keep, or nested beyond what is kept
    if (capacity_ > std::numeric_limits<size_t>::max() / sizeof(float)) throw std::bad_alloc();
    begin_ = static_cast<float*>(allocateAligned(capacity_ * sizeof(float)));
    own_ = true;
  }
  if (poisonRequested()) poison(begin_, capacity_);
}

Scratch::~Scratch() {
  if (own_)
    freeAligned(begin_);
  else
    arena().used = mark_;
}

float* Scratch::take(size_t floats) {
  const size_t n = alignFloats(floats);
  if (n > capacity_ - used_) throw std::bad_alloc();  // a kernel asked for more than it announced
  float* p = begin_ + used_;
  used_ += n;
  return p;
}

#endif

AlignedBuffer::AlignedBuffer(size_t bytes) : data_(allocateAligned(bytes)), bytes_(bytes) {}
AlignedBuffer::~AlignedBuffer() { freeAligned(data_); }
AlignedBuffer::AlignedBuffer(AlignedBuffer&& o) noexcept
    : data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& o) noexcept {
  std::swap(data_, o.data_);
  std::swap(bytes_, o.bytes_);
  return *this;
}

}  // namespace rankone
