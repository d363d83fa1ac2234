// What is known about every byte of shared and global memory: who wrote and read it last, and whether it may be
// touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "simt/emulator.cuh"

namespace simt::emulator {

struct Thread;
struct Block;

enum class Proxy : uint8_t { GENERIC, ASYNC };

struct Access {
  const void* address;
  size_t bytes;
  bool write;
  uint32_t place;
  Proxy proxy = Proxy::GENERIC;
  int actor = -1;          // the component of the clocks on whose behalf, or -1: the thread
  bool atomic = false;     // load_acquire, add_release
  bool finishing = false;  // the end of an asynchronous copy
};

// Checks and notes an access to shared or global memory. False where the bytes must not be touched.
bool check(Thread&, const Access&);

// Asynchronous copies into shared memory, and reads of it, that are under way.
void beginWrite(Thread&, const void* address, size_t bytes, uint32_t place);
void beginRead(Thread&, const void* address, size_t bytes, uint32_t place);
void endRead(Block&, const void* address, size_t bytes);

struct SharedCell {
  uint64_t readers;  // slots with a read since the last write
  uint32_t writeClock, writePlace, asyncPlace;
  uint16_t writer;  // component
  uint8_t flags;
  uint8_t reading;  // asynchronous reads under way
};

struct SharedRead {
  uint32_t clock;
  uint32_t component : 12;
  uint32_t place : 20;
};

class SharedShadow {
 public:
  void reset(size_t bytes, int warps);
  size_t bytes() const { return bytes_; }
  SharedCell& cell(size_t offset) {
    if (stamps_[offset >> PAGE] != stamp_) clear(offset >> PAGE);
    return cells_[offset];
  }
  // The cells of `bytes` neighbours.
  SharedCell* cells(size_t offset, size_t bytes) {
    cell(offset + bytes - 1);
    return &cell(offset);
  }
  // A slot for each warp's threads, one for each warp's wgmma; neighbouring bytes lie side by side.
  SharedRead& read(size_t offset, int slot) { return reads_[static_cast<size_t>(slot) * cells_.size() + offset]; }

 private:
  static constexpr int PAGE = 9;
  void clear(size_t page);
  std::vector<SharedCell> cells_;
  std::vector<SharedRead> reads_;
  std::vector<uint32_t> stamps_;
  uint32_t stamp_ = 0;
  size_t bytes_ = 0;
};

}  // namespace simt::emulator
