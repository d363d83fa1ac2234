// One range of addresses: shared memory of the resident blocks, then global memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt::emulator {

constexpr size_t SHARED_SLOT = 256 << 10;  // its offsets are the 18 bits of a wgmma descriptor
constexpr size_t SHARED_SLOTS = 2048;
constexpr size_t SHARED_SPACE = SHARED_SLOTS * SHARED_SLOT;
constexpr size_t GLOBAL_SPACE = size_t(3) << 30;
constexpr size_t SPACE = SHARED_SPACE + GLOBAL_SPACE;

extern unsigned char* space;

inline size_t offsetOf(const void* p) { return static_cast<size_t>(static_cast<const unsigned char*>(p) - space); }
inline bool isShared(const void* p) { return offsetOf(p) < SHARED_SPACE; }
inline bool isGlobal(const void* p) { return offsetOf(p) - SHARED_SPACE < GLOBAL_SPACE; }

// Maps the range, once.
void createSpace();
// Of SHARED_SLOT bytes, aligned to them.
unsigned char* takeSharedSlot();

// By byte of global memory. Epochs: block serial << 42 | thread << 32 | clock; of launch state >> STATE_BITS.
struct GlobalCell {
  uint64_t write, reads[2];
  uint32_t writePlace, readPlaces[2];
  uint32_t state;
};
constexpr uint32_t ALLOCATED = 1, INITIALISED = 2, WRITE_ATOMIC = 4, STATE_BITS = 3;

// The cells of global memory, from its first byte; mapped on first use.
extern GlobalCell* globalCells;
inline GlobalCell& globalCell(const void* p) { return globalCells[offsetOf(p) - SHARED_SPACE]; }

}  // namespace simt::emulator
