// x as it is multiplied: rows of another dtype, or at a multiple of 16 bytes.
#pragma once
#include "lora_forward_args.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr int kOperandThreads = 256;

// Rows of `stride` elements, zeros behind their ends. Row r is x's order[r], or r where order is null.
__global__ void __launch_bounds__(kOperandThreads)
    loraOperandKernel(void* to, int32_t dtype, int64_t stride, RankoneFloats x, int64_t rows, int64_t in,
                      const uint32_t* order) {
  const int64_t count = rows * stride, step = static_cast<int64_t>(gridDim.x) * kOperandThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kOperandThreads + threadIdx.x; i < count; i += step) {
    const int64_t row = order ? order[i / stride] : i / stride, column = i % stride;
    storeFloat(to, dtype, i, column < in ? loadFloat(x.data, x.dtype, row * in + column) : 0);
  }
}

}  // namespace rankone::cuda
