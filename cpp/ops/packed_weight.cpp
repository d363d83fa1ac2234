#include "ops/packed_weight.h"

#include "core/parallel.h"
#include "kernels/split.h"

namespace rankone {

PackedWeight::PackedWeight(PanelFormat f, int64_t out, int64_t in)
    : format(f),
      panels_(panelsOf(f, out, in)),
      words_(panels_.wordCount() * sizeof(uint32_t)),
      scales_(panels_.scaleCount() * sizeof(float)) {
  panels_.words = static_cast<const uint32_t*>(words_.data());
  if (panels_.scaleCount()) panels_.scales = scales_.f32();
}

void PackedWeight::pack(const void* data, DType dtype, const CancelFlag* cancel) {
  packDense(data, dtype, in(), false, panels_, static_cast<uint32_t*>(words_.data()),
            panels_.scales ? scales_.f32() : nullptr, cancel);
}

void PackedWeight::packCodes(const uint8_t* codes, const float* scaleOf, const CancelFlag* cancel) {
  rankone::packCodes(codes, scaleOf, panels_, static_cast<uint32_t*>(words_.data()),
                     panels_.scales ? scales_.f32() : nullptr, cancel);
}

void PackedWeight::unpack(float* to) const {
  const Split split = splitWork(out(), 8 * in());
  parallelFor(split.tasks, nullptr, [&](int64_t task) {
    for (int64_t row = split.begin(task); row < split.end(task); ++row) unpackRow(panels_, row, to + row * in());
  });
}

}  // namespace rankone
