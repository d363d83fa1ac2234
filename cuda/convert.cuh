// One float dtype into another.
#pragma once
#include <cstdint>

#include "simt/simt.cuh"

namespace rankone::cuda {

SIMT_DEV float toFloat(float x) { return x; }
SIMT_DEV float toFloat(simt::bf16 x) { return simt::bf16_to_f32(x.u); }
SIMT_DEV float toFloat(simt::f16 x) { return simt::f16_to_f32(x.u); }
SIMT_DEV void fromFloat(float* to, float x) { *to = x; }
SIMT_DEV void fromFloat(simt::bf16* to, float x) { to->u = simt::f32_to_bf16(x); }
SIMT_DEV void fromFloat(simt::f16* to, float x) { to->u = simt::f32_to_f16(x); }

constexpr int kConvertThreads = 256, kConvertElements = 4;  // a thread

// A thread takes elements a block apart, so that neighbouring threads touch neighbouring elements.
template <class To, class From>
__global__ void __launch_bounds__(kConvertThreads) convertKernel(To* to, const From* from, int64_t count) {
  const int64_t first = int64_t{blockIdx.x} * kConvertThreads * kConvertElements + threadIdx.x;
  From values[kConvertElements] = {};
  SIMT_UNROLL
  for (int i = 0; i < kConvertElements; ++i) {
    const int64_t at = first + i * kConvertThreads;
    if (at < count) values[i] = from[at];
  }
  SIMT_UNROLL
  for (int i = 0; i < kConvertElements; ++i) {
    const int64_t at = first + i * kConvertThreads;
    if (at < count) fromFloat(to + at, toFloat(values[i]));
  }
}

}  // namespace rankone::cuda
