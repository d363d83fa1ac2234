// Meetings of a warp's lanes.
#pragma once

#include "machine.h"
#include "memory.h"

// For the widest vectors of the machine.
#if defined(__x86_64__) && defined(__gnu_linux__)
#define VECTORISED __attribute__((target_clones("avx2", "default"), optimize("O3")))
#else
#define VECTORISED
#endif

namespace simt::emulator {

// Carries an operation out for the lanes in `lanes`; arguments of the others are null.
using Execute = void (*)(Warp&, void* const* arguments, uint32_t lanes);

// Waits for the lanes of `mask` that have not ended. Operations meet when they are of one kind (one `execute`) and
// mask, and, if aligned, of one line.
void meet(const char* what, uint32_t mask, bool aligned, void* argument, Execute execute, Site site);

// A lane has ended.
void warpLoses(Warp&, int lane);

inline bool isSharedOf(const Thread& me, const void* p, size_t bytes) {
  const auto offset = static_cast<size_t>(static_cast<const unsigned char*>(p) - me.shared);
  return offset <= SHARED_SLOT && SHARED_SLOT - offset >= bytes;
}

// An operand of 16 bits as f32.
inline float decode(Element type, uint32_t bits) {
  return type == Element::BF16 ? bf16_to_f32(static_cast<uint16_t>(bits)) : f16_to_f32(static_cast<uint16_t>(bits));
}

// As tensor cores give it out: NaNs are one.
inline float rounded(double x) { return x != x ? f32_from_bits(0x7fffffff) : static_cast<float>(x); }

}  // namespace simt::emulator
