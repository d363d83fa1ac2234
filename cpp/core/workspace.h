// Scratch memory of a thread: grown on demand, kept between calls up to a limit, aligned to 64 bytes.
//
//   Scratch scratch(floats);          // one block
//   float* a = scratch.take(n);       // pieces of it, each aligned to 64 bytes
//
// Blocks nest like a stack within a thread. Throws std::bad_alloc. With RANKONE_POISON=1 every block is filled with NaN
// first, so that a kernel that reads what it did not write fails its test. Built with RANKONE_SEPARATE_SCRATCH every
// piece is a heap block of its own, for AddressSanitizer to see a step from one into the next.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rankone {

bool poisonRequested();
void poison(float* data, size_t count);

constexpr size_t alignFloats(size_t n) { return (n + 15) & ~size_t{15}; }

class AlignedBuffer;

class Scratch {
 public:
  explicit Scratch(size_t floats);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* take(size_t floats);

 private:
  float* begin_ = nullptr;
  size_t used_ = 0, capacity_ = 0;
  size_t mark_ = 0;
  bool own_ = false;
#ifdef RANKONE_SEPARATE_SCRATCH
  std::vector<AlignedBuffer> pieces_;
#endif
};

// A block that outlives the call (states, saved activations, copies of inputs). Aligned to 64 bytes.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes);
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  void* data() const { return data_; }
  float* f32() const { return static_cast<float*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace rankone
