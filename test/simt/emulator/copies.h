// TMA loads, between the mbarriers that they complete on and the tensor maps that they follow.
#pragma once

#include "machine.h"

namespace simt::emulator {

// Queues the load on its mbarrier.
void beginTransfer(Thread&, uint64_t* bar, Transfer, Site, const char* what);

// Writes shared memory; the number of bytes.
size_t finishLoad(Block&, const Transfer&, const Mbarrier&);

// The 16-byte piece at `address` of a tile under a swizzle: a function of the address.
inline size_t swizzled(Swizzle swizzle, size_t address) {
  switch (swizzle) {
    case Swizzle::B128: return address ^ (address >> 7 & 7) << 4;
    case Swizzle::B64: return address ^ (address >> 7 & 3) << 4;
    default: return address;
  }
}

}  // namespace simt::emulator
