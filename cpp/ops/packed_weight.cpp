#include "ops/packed_weight.h"

#include "core/parallel.h"
#include "kernels/split.h"
#include "ops/weight_rows.h"

namespace rankone {

PackedWeight::PackedWeight(PanelFormat f, int64_t out, int64_t in)
    : format(f),
      panels_(panelsOf(f, out, in)),
      words_(panels_.wordCount() * sizeof(uint32_t)),
      scales_(panels_.scaleCount() * sizeof(float)) {
  panels_.words = static_cast<const uint32_t*>(words_.data());
  if (panels_.scaleCount()) panels_.scales = scales_.f32();
}

PackedWeight::PackedWeight(const PackedWeight& from, std::shared_ptr<cuda::Context> where)
    : format(from.format), device(std::move(where)), panels_(from.panels_), rows_(weightRowsOf(from.panels_)) {
  panels_.words = nullptr;
  panels_.scales = nullptr;
  deviceCodes_ = std::make_shared<cuda::Buffer>(device, codeBytes(rows_));
  deviceScales_ = std::make_shared<cuda::Buffer>(device, rankone::scaleCount(rows_) * sizeof(float));
  rows_.codes = deviceCodes_->data();
  rows_.scales = static_cast<const float*>(deviceScales_->data());
}

void PackedWeight::put(const PackedWeight& from) {
  const WeightRows rows = rowsOf(from.panels_);
  device->uploadBeside(deviceCodes_->data(), rows.codes.data(), deviceCodes_->bytes());
  device->uploadBeside(deviceScales_->data(), rows.scales.data(), deviceScales_->bytes());
}

void PackedWeight::putNow(const PackedWeight& from) {
  const WeightRows rows = rowsOf(from.panels_);
  device->upload(deviceCodes_->data(), rows.codes.data(), deviceCodes_->bytes());
  device->upload(deviceScales_->data(), rows.scales.data(), deviceScales_->bytes());
}

size_t PackedWeight::bytes() const {
  if (device) return deviceCodes_->bytes() + deviceScales_->bytes();
  return words_.bytes() + (panels_.scales ? scales_.bytes() : 0);
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
  if (device) {
    std::vector<uint8_t> codes(deviceCodes_->bytes());
    std::vector<float> scales(rankone::scaleCount(rows_));
    device->download(codes.data(), deviceCodes_->data(), codes.size());
    device->download(scales.data(), deviceScales_->data(), deviceScales_->bytes());
    unpackRows(rows_, codes.data(), scales.data(), to);
    return;
  }
  const Split split = splitWork(out(), 8 * in());
  parallelFor(split.tasks, nullptr, [&](int64_t task) {
    for (int64_t row = split.begin(task); row < split.end(task); ++row) unpackRow(panels_, row, to + row * in());
  });
}

}  // namespace rankone
