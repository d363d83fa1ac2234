// Types of both worlds.
#pragma once

#include <cstdint>

namespace simt {

struct bf16 {
  uint16_t u;
};

struct f16 {
  uint16_t u;
};

// Element types of a tensor map.
enum class MapType : int { BF16, F16, F32 };

// How the 16-byte pieces of a row lie in shared memory: piece p of row r of 128 (64) bytes is at p ^ r % 8 (p ^ r / 2 %
// 4).
enum class Swizzle : int { NONE, B64, B128 };

// A code of the CUDA runtime; 0 is success.
using Status = int;

}  // namespace simt
