// Philox4x32-10, a counter-based generator: Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3,
// 2011. Ten rounds turn a counter of four words and a key of two into four words; any one can be drawn alone.
#pragma once
#include <array>
#include <cstdint>

namespace rankone {

using PhiloxWords = std::array<uint32_t, 4>;

// key: its first word in the low half.
constexpr PhiloxWords philox4x32(PhiloxWords c, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53} * c[0], p1 = uint64_t{0xcd9e8d57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key1, static_cast<uint32_t>(p0)};
    key0 += 0x9e3779b9;
    key1 += 0xbb67ae85;
  }
  return c;
}

}  // namespace rankone
