#include "ops/gradients.h"

#include "kernels/convert.h"

namespace rankone {

float* GradientBuffers::f32(int output) {
  const Tensor& t = call_.outputs[output];
  if (!t.present()) return nullptr;
  if (t.dtype == DType::F32) return t.f32();
  pending_.push_back({output, AlignedBuffer(static_cast<size_t>(t.size()) * sizeof(float))});
  return pending_.back().buffer.f32();
}

void GradientBuffers::finish() {
  for (const Pending& p : pending_) {
    const Tensor& t = call_.outputs[p.output];
    narrowAll(p.buffer.f32(), t.size(), t.data, t.dtype, call_.cancel);
  }
}

}  // namespace rankone
