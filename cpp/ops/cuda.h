// What the ops' CUDA forms have in common.
#pragma once
#include <vector>

#include "core/cuda.h"
#include "ops/op.h"

namespace rankone::cuda {

static_assert(RANKONE_F32 == static_cast<int>(DType::F32) && RANKONE_BF16 == static_cast<int>(DType::BF16) &&
              RANKONE_F16 == static_cast<int>(DType::F16));

inline RankoneFloats floatsOf(const Tensor& t) { return {t.data, static_cast<int32_t>(t.dtype)}; }
inline RankoneFloats floatsOf(const FloatView& v) { return {v.data, static_cast<int32_t>(v.dtype)}; }

// A gradient is computed in float32; where the caller wants it in a half-width type (gradDtype: 'input') it is computed
// into memory of its own and rounded once at the end.
class GradientBuffers {
 public:
  explicit GradientBuffers(const Call& call) : call_(call) {}
  // Where an output is to be computed; null if the call does not produce it.
  float* f32(int output);
  // Where one that only this call needs is to be computed.
  float* scratch(int64_t count);
  void finish();

 private:
  struct Pending {
    int output;
    const float* from;
  };
  const Call& call_;
  std::vector<Array<float>> arrays_;
  std::vector<Pending> pending_;
};

// A tensor's values in float32: its own memory, or a converted copy that `kept` keeps.
const float* widened(const Call& call, const Tensor& t, Array<float>& kept);

}  // namespace rankone::cuda
