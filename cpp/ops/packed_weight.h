// A weight [out, in] in panels, made once and read by any number of calls.
#pragma once
#include <cstdint>

#include "core/workspace.h"
#include "kernels/panels.h"

namespace rankone {

// As JavaScript names them, in the order of PanelFormat.
constexpr const char* kWeightFormats = "f32|bf16|f16|int8|q8|nf4|q4";

class PackedWeight {
 public:
  // With memory for the words and scales, which whoever makes one fills in.
  PackedWeight(PanelFormat format, int64_t out, int64_t in);

  const PanelFormat format;  // as asked for: panels() may hold the values in another one
  const Panels& panels() const { return panels_; }
  int64_t out() const { return panels_.rows; }
  int64_t in() const { return panels_.depth; }
  size_t bytes() const { return words_.bytes() + (panels_.scales ? scales_.bytes() : 0); }

  // Fills it; as packDense() and packCodes().
  void pack(const void* data, DType dtype, const CancelFlag* cancel);
  void packCodes(const uint8_t* codes, const float* scales, const CancelFlag* cancel);

  // The values that it stands for, row-major.
  void unpack(float* to) const;

 private:
  Panels panels_;
  AlignedBuffer words_, scales_;
};

}  // namespace rankone
