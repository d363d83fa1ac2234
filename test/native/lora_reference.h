// The fused LoRA product and its gradients in float64, by their formulas, and problems for them.
#pragma once
#include <string>

#include "kernels/lora.h"
#include "random.h"

namespace rankone::test {

// A matrix in panels, and the values that it stands for, row-major.
struct PackedMatrix {
  Panels panels;
  std::shared_ptr<std::vector<uint32_t>> words;
  std::shared_ptr<std::vector<float>> scales;
  Values values;
};
PackedMatrix packMatrix(Random& random, PanelFormat format, int64_t rows, int64_t depth, double size, int width);

struct LoraSpec {
  int64_t rank = 0, midRank = 0, activeRanks = 0;
  double scale = 1;
  RankActivation activation = RankActivation::None;
  PackedMatrix a, b;
  std::vector<int32_t> aIndex, bIndex, bOrder;  // in place of a and b
  std::vector<float> mid, midDiagonal, rankBias, baseScale, outBias;
};

struct LoraProblem {
  std::string label;
  int64_t rows = 0, in = 0, out = 0, perRow = 1;
  bool hasBase = false, identity = false;
  PackedMatrix base;
  std::vector<LoraSpec> specs;
  std::vector<int32_t> slots;  // empty: no adapters
  std::vector<float> gates;    // empty: none
  std::vector<float> bias;     // empty: none
  double dropout = 0;
  uint64_t seed = 0;
  Array x, dY;

  // What the kernels read, as long as this lives and is not copied.
  LoraArgs args();

 private:
  std::vector<LoraAdapter> adapters_;
  std::vector<const LoraAdapter*> pointers_;
};

// Numbers of a problem that gradients are of: an element of one of them may be moved.
struct LoraValues {
  Values x, gates;
  struct Adapter {
    double scale;
    Values a, b, mid, midDiagonal, rankBias, baseScale, outBias;
  };
  std::vector<Adapter> adapters;
};
LoraValues valuesOf(const LoraProblem& p);

struct LoraReference {
  Values y, t;  // t [rows, perRow, tRanks]
  LoraValues gradient;
  Values dBias;
};
LoraReference loraReference(const LoraProblem& p, const LoraValues& v, int64_t tRanks);

}  // namespace rankone::test
