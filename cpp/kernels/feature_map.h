// Feature maps of linear attention, phi(x) of one vector at a time. See feature_rows.inl for the maps and
// feature_map.inl for how they are applied to whole tensors.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

enum class FeatureKind : uint8_t { None, Elu1, Relu, Softmax, Hedgehog, HedgehogExp, Focused, Taylor2 };

// A width that Taylor2 may have: its square can be counted.
constexpr int64_t kMaxTaylorWidth = 4096;

constexpr bool isProjected(FeatureKind kind) {
  return kind == FeatureKind::Hedgehog || kind == FeatureKind::HedgehogExp;
}

// How vectors of K elements become F features. D is the width of the projection in between; K without a weight.
struct FeatureForm {
  FeatureKind kind = FeatureKind::None;
  int64_t K = 0, D = 0;
  int power = 3;      // Focused
  float eps = 1e-6f;  // the same
  int64_t width() const {
    if (isProjected(kind)) return 2 * D;
    return kind == FeatureKind::Taylor2 ? 1 + K + K * (K + 1) / 2 : K;
  }
};

struct FeatureMapArgs {
  const void* x;       // [rows,H,K]
  const void* weight;  // [H,K,D], or null: the identity
  const void* bias;    // [H,D], or null
  const void* scale;   // [K], or null: ones
  void* y;             // [rows,H,F]
  DType dtype, weightDType, biasDType, scaleDType;
  int64_t rows, H;
  FeatureForm form;
  const CancelFlag* cancel = nullptr;
};

struct FeatureMapBackwardArgs {
  FeatureMapArgs forward;  // but for y
  const void* dY;          // [rows,H,F]
  void* dX;                // [rows,H,K]
  void* dWeight;           // [H,K,D]; null without weight
  void* dBias;             // [H,D]; null without bias
  void* dScale;            // [K]; null without scale
  DType gradDType, dWeightDType, dBiasDType, dScaleDType;
};

void featureMap(const FeatureMapArgs& args);
void featureMapBackward(const FeatureMapBackwardArgs& args);

}  // namespace rankone
