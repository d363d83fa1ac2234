// Dropout by counters: what is dropped depends on seed, row and column alone. As cpp/core/philox.h.
#pragma once
#include <cstdint>

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

struct Dropout {
  uint64_t seed;
  uint64_t least;  // words below it are dropped; 0: no dropout
  float kept;      // 1 / (1 - p)
};

// p 2^32 as the least word that stays.
inline Dropout dropoutOf(double p, uint64_t seed) {
  const double wanted = p * 4294967296.0;
  uint64_t least = static_cast<uint64_t>(wanted);
  if (static_cast<double>(least) < wanted) ++least;
  return {seed, least, static_cast<float>(1 / (1 - p))};
}

// Bit i: whether element (row, 4 group + i) stays.
SIMT_DEV uint32_t keptOf(const Dropout& d, int64_t row, int64_t group) {
  uint32_t c[4] = {static_cast<uint32_t>(group), static_cast<uint32_t>(row),
                   static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32), 0};
  uint32_t key0 = static_cast<uint32_t>(d.seed), key1 = static_cast<uint32_t>(d.seed >> 32);
  SIMT_UNROLL for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53} * c[0], p1 = uint64_t{0xcd9e8d57} * c[2];
    c[0] = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key0;
    c[2] = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key1;
    c[1] = static_cast<uint32_t>(p1);
    c[3] = static_cast<uint32_t>(p0);
    key0 += 0x9e3779b9;
    key1 += 0xbb67ae85;
  }
  uint32_t kept = 0;
  SIMT_UNROLL for (int i = 0; i < 4; ++i) kept |= (c[i] >= d.least ? 1u : 0u) << i;
  return kept;
}

}  // namespace rankone::cuda
