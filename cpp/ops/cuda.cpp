#include "ops/cuda.h"

namespace rankone::cuda {

float* GradientBuffers::scratch(int64_t count) {
  arrays_.emplace_back(call_.device, static_cast<size_t>(count));
  return arrays_.back().data();
}

float* GradientBuffers::f32(int output) {
  const Tensor& t = call_.outputs[output];
  if (!t.present()) return nullptr;
  if (t.dtype == DType::F32) return t.f32();
  float* to = scratch(t.size());
  pending_.push_back({output, to});
  return to;
}

void GradientBuffers::finish() {
  for (const auto& [output, from] : pending_) {
    const Tensor& t = call_.outputs[output];
    if (t.size() > 0)
      call_.device->run(&RankoneCuda::convert, t.data, static_cast<int32_t>(t.dtype), static_cast<const void*>(from),
                        static_cast<int32_t>(RANKONE_F32), t.size());
  }
}

const float* widened(const Call& call, const Tensor& t, Array<float>& kept) {
  if (!t.present() || t.dtype == DType::F32) return t.f32();
  kept = Array<float>(call.device, static_cast<size_t>(t.size()));
  if (t.size() > 0)
    call.device->run(&RankoneCuda::convert, static_cast<void*>(kept.data()), static_cast<int32_t>(RANKONE_F32),
                     static_cast<const void*>(t.data), static_cast<int32_t>(t.dtype), t.size());
  return kept.data();
}

}  // namespace rankone::cuda
