// The fused LoRA product and its gradients in float64, by their formulas, and problems for them in the terms of
// backend.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "backend.h"

namespace rankone::test {

using Values = std::vector<double>;

// Seeded numbers, the same on every platform.
class LoraRandom {
 public:
  explicit LoraRandom(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t bits() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }
  Values normals(int64_t count, double size, double offset = 0);

 private:
  uint64_t state_;
};

// Floats as the backend reads them, and what they stand for.
struct HostFloats {
  int32_t dtype = RANKONE_F32;
  std::vector<uint8_t> bytes;  // none: absent
  Values values;

  HostFloats() = default;
  // Rounded. [rows, columns] where rows lie `stride` elements apart, with NaNs between them.
  HostFloats(int32_t dtype, const Values& values);
  HostFloats(int32_t dtype, const Values& values, int64_t columns, int64_t stride);
};

constexpr int64_t floatSize(int32_t dtype) { return dtype == RANKONE_F32 ? 4 : 2; }
Values valuesOf(int32_t dtype, const void* data, int64_t count);

struct HostWeight {
  RankoneWeight shape{};  // without pointers
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  Values values;  // [out, in]
};
HostWeight drawWeight(LoraRandom& random, int32_t format, int64_t out, int64_t in);

struct HostAdapter {
  int64_t rank = 0, midRank = 0, activeRanks = 0;
  float scale = 1;
  int32_t activation = RANKONE_ACT_NONE;
  HostFloats a, b;
  int64_t aStride = 0, bStride = 0;
  std::vector<int32_t> aIndex, bIndex, bOrder;  // in place of a and b
  std::vector<float> mid, midDiagonal, rankBias, baseScale, outBias;
};

// Puts bytes where the backend reads them; the memory outlives what is made of it.
using Upload = std::function<const void*(const void* from, size_t bytes)>;

struct HostLora {
  std::string label;
  int64_t rows = 0, in = 0, out = 0, perRow = 1;
  bool hasBase = false, identity = false;
  HostWeight base;
  std::vector<HostAdapter> adapters;
  std::vector<int32_t> slots;  // empty: no adapters
  std::vector<float> gates;    // empty: none
  HostFloats bias;
  double dropout = 0;
  uint64_t seed = 0;
  int32_t compute = RANKONE_COMPUTE_DEFAULT;
  HostFloats x, dY;

  int64_t mostRank() const;
  // Without t; valid as long as this lives and is not copied.
  RankoneLora upload(const Upload& upload);
  // Rows of it, in this order: a batch of them alone.
  HostLora rowsOnly(const std::vector<int64_t>& which) const;

 private:
  RankoneWeight weight_{};
  std::vector<RankoneAdapter> table_;
};

enum class LoraRouting { NONE, ONE, SEGMENTS, TOKENS, TOP_K };

constexpr int32_t kIdentityBase = 7, kNoBase = 8;  // besides the formats of weights

struct LoraDraw {
  int64_t rows, in, out;
  int32_t base;
  LoraRouting routing;
  int64_t perRow = 1, adapters = 3, mostRank = 20;
  int32_t dtype = RANKONE_F32;
  double dropout = 0;
  bool pieces = true;         // all that an adapter may have, by lot
  int32_t adapterDType = -1;  // -1: by lot
  int64_t leastRank = 1;
};
HostLora drawLora(const LoraDraw& draw, uint64_t seed);

struct LoraAdapterGradients {
  double scale = 0;
  Values a, b, mid, rankBias, baseScale, outBias;  // mid: [midRank, rank], or [rank] of a diagonal
};

struct LoraReference {
  Values y, t;  // t [rows, perRow, tRanks]
  Values dx, dGates, dBias;
  std::vector<LoraAdapterGradients> adapters;
};
// Gradients only where dY is there.
LoraReference loraReference(const HostLora& p, int64_t tRanks);

}  // namespace rankone::test
