// A weight [out, in], made once and read by any number of calls: in panels, or in rows on a device.
#pragma once
#include <cstdint>
#include <memory>

#include "core/cuda.h"
#include "core/workspace.h"
#include "kernels/panels.h"

namespace rankone {

// As JavaScript names them, in the order of PanelFormat.
constexpr const char* kWeightFormats = "f32|bf16|f16|int8|q8|nf4|q4";

class PackedWeight {
 public:
  // With memory for the words and scales, which whoever makes one fills in.
  PackedWeight(PanelFormat format, int64_t out, int64_t in);

  // On a device, for the codes and scales of another one, which is on the CPU; put() copies them.
  PackedWeight(const PackedWeight& from, std::shared_ptr<cuda::Context> device);

  const PanelFormat format;                         // as asked for: panels() may hold the values in another one
  const Panels& panels() const { return panels_; }  // on a device without words and scales
  int64_t out() const { return panels_.rows; }
  int64_t in() const { return panels_.depth; }
  size_t bytes() const;
  const std::shared_ptr<cuda::Context> device;  // null: on the CPU
  const RankoneWeight& onDevice() const { return rows_; }

  // Fills it; as packDense() and packCodes().
  void pack(const void* data, DType dtype, const CancelFlag* cancel);
  void packCodes(const uint8_t* codes, const float* scales, const CancelFlag* cancel);

  // Fills one on a device: in its stream, or beside it from a task of device->later() after an event of the stream.
  void putNow(const PackedWeight& from);
  void put(const PackedWeight& from);

  // The values that it stands for, row-major. What is on a device is waited for.
  void unpack(float* to) const;

 private:
  Panels panels_;
  AlignedBuffer words_, scales_;
  RankoneWeight rows_{};
  std::shared_ptr<cuda::Buffer> deviceCodes_, deviceScales_;
};

}  // namespace rankone
