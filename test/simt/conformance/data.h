// Inputs of the conformance tests, and the launch that they share.
//
// A conformance test runs one primitive and compares with bits that the host computes from the PTX manual's words. The
// same source is a test of the emulator (g++) and a GPU program (nvcc -x cu): both must agree with the host, and so
// with each other.
#pragma once

#include <cstdint>
#include <vector>

#include "simt/check.h"

namespace conformance {

using Words = std::vector<uint32_t>;

class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed * 2654435761u + 1) {}
  uint32_t word() {
    state_ = state_ * 1664525u + 1013904223u;
    uint32_t x = state_;
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    return x ^ x >> 12;
  }
  // -8 to 8: sums of products are exact in every format and order.
  int small() { return static_cast<int>(word() % 17) - 8; }

 private:
  uint32_t state_;
};

inline Words noise(size_t count, uint32_t seed = 1) {
  Random random(seed);
  Words words(count);
  for (uint32_t& word : words) word = random.word();
  return words;
}

inline float asFloat(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t asBits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// Integers of up to 8 bits, exactly; written without the emulator's conversions.
inline uint16_t smallBf16(int x) { return static_cast<uint16_t>(asBits(static_cast<float>(x)) >> 16); }
inline uint16_t smallF16(int x) {
  if (x == 0) return 0;
  const int sign = x < 0 ? 0x8000 : 0;
  int magnitude = x < 0 ? -x : x, exponent = 0;
  while (magnitude >> (exponent + 1)) ++exponent;
  return static_cast<uint16_t>(sign | (exponent + 15) << 10 | (magnitude - (1 << exponent)) << (10 - exponent));
}

// kernel(in, out) by `threads` threads; the words that it wrote.
template <class Kernel>
Words run(Kernel kernel, const Words& in, size_t outputs, int threads, size_t sharedBytes) {
  DeviceArray<uint32_t> input(in), output(outputs);
  EXPECT_OK(simt::launch(kernel, dim3(1), dim3(static_cast<unsigned>(threads)), sharedBytes, nullptr,
                         static_cast<const uint32_t*>(input.data()), output.data()));
  EXPECT_OK(simt::check::synchronize());
  return output.host();
}

inline void expectWords(const Words& actual, const Words& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size() && i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;
    char text[96];
    std::snprintf(text, sizeof text, "word %zu is %08x, not %08x", i, actual[i], expected[i]);
    simt::check::fail(__FILE__, __LINE__, text);
  }
}

}  // namespace conformance
