// A packed weight in rows, as the CUDA backend takes it: the codes and scales that the panels hold, bit for bit.
#pragma once
#include <cstdint>
#include <vector>

#include "../../cuda/backend.h"
#include "kernels/panels.h"

namespace rankone {

struct WeightRows {
  RankoneWeight weight{};  // codes and scales null
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

// Sizes alone: weight, without codes and scales.
RankoneWeight weightRowsOf(const Panels& panels);
size_t codeBytes(const RankoneWeight& weight);
size_t scaleCount(const RankoneWeight& weight);

WeightRows rowsOf(const Panels& panels);
// The values that rows stand for, [out, in]. codes and scales are host memory.
void unpackRows(const RankoneWeight& weight, const uint8_t* codes, const float* scales, float* to);

}  // namespace rankone
