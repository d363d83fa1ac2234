// What the multipliers can do when nothing else is asked of them.
#pragma once
#include <cstdint>

#include "simt/simt.cuh"

namespace rankone::cuda {

constexpr int kPeakThreads = 256, kPeakTiles = 8;  // accumulators of a warp, enough to hide the latency
constexpr int kPeakChains = 16;                    // of a thread

// Numbers about 1 of either sign with busy mantissas: what power the cores draw, and so their clock, depends on them.
SIMT_DEV uint32_t peakOperand(uint32_t seed) {
  uint32_t x = seed * 2654435761u;
  x ^= x >> 15;
  x *= 0x2c1b3c6du;
  return (x & 0x807f807fu) | 0x3f003f00u;
}

__global__ void __launch_bounds__(kPeakThreads) mmaPeakKernel(float* out, int iterations) {
  const uint32_t thread = threadIdx.x + blockIdx.x * kPeakThreads;
  float d[kPeakTiles][4] = {};
  uint32_t a[2][4], b[kPeakTiles][2];
  SIMT_UNROLL
  for (int i = 0; i < 8; ++i) a[i / 4][i % 4] = peakOperand(thread * 8 + i);
  SIMT_UNROLL
  for (int i = 0; i < 2 * kPeakTiles; ++i) b[i / 2][i % 2] = peakOperand(thread * 16 + i + 77);
  SIMT_NOUNROLL
  for (int n = 0; n < iterations; ++n) {
    SIMT_UNROLL
    for (int i = 0; i < kPeakTiles; ++i) simt::mma_bf16(d[i], a[i % 2], b[i][0], b[i][1]);
  }
  float sum = 0;
  SIMT_UNROLL
  for (int i = 0; i < kPeakTiles; ++i) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
  out[thread] = sum;
}

__global__ void __launch_bounds__(kPeakThreads) fmaPeakKernel(float* out, int iterations) {
  const uint32_t thread = threadIdx.x + blockIdx.x * kPeakThreads;
  const float factor = 1 - 1e-6f * static_cast<float>(thread % 7), step = 1e-3f * static_cast<float>(thread % 13);
  float d[kPeakChains];
  SIMT_UNROLL
  for (int i = 0; i < kPeakChains; ++i) d[i] = static_cast<float>(i);
  SIMT_NOUNROLL
  for (int n = 0; n < iterations; ++n) {
    SIMT_UNROLL
    for (int i = 0; i < kPeakChains; ++i) d[i] = fmaf(d[i], factor, step);
  }
  float sum = 0;
  SIMT_UNROLL
  for (int i = 0; i < kPeakChains; ++i) sum += d[i];
  out[thread] = sum;
}

struct WgmmaPeakShared {
  uint32_t a[2][64 * 32];  // [64][64] bf16 for each warpgroup
  uint32_t b[256 * 32];    // [256][64]
};

__global__ void __launch_bounds__(kPeakThreads) wgmmaPeakKernel(float* out, int iterations) {
  auto& shared = simt::shared<WgmmaPeakShared>();
  for (int i = threadIdx.x; i < 2 * 64 * 32; i += kPeakThreads) (&shared.a[0][0])[i] = peakOperand(i);
  for (int i = threadIdx.x; i < 256 * 32; i += kPeakThreads) shared.b[i] = peakOperand(i + 123456);
  simt::fence_proxy_async();
  simt::syncthreads();
  const uint64_t a = simt::wgmma_desc(shared.a[threadIdx.x / 128], 16, 1024), b = simt::wgmma_desc(shared.b, 16, 1024);
  float d[128] = {};
  simt::wgmma_fence();
  SIMT_NOUNROLL
  for (int n = 0; n < iterations; ++n) {
    SIMT_UNROLL
    for (int k = 0; k < 4; ++k) simt::wgmma_bf16<256>(d, a + 2 * k, b + 2 * k);  // 32 bytes on
    simt::wgmma_commit();
  }
  simt::wgmma_wait<0>();
  float sum = 0;
  SIMT_UNROLL
  for (int i = 0; i < 128; ++i) sum += d[i];
  out[threadIdx.x + blockIdx.x * kPeakThreads] = sum;
}

}  // namespace rankone::cuda
