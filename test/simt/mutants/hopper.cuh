// A Hopper pipeline with one fault a value of FAULT: C[64x64] = -A[64xK] B[Kx64], bf16. Warps 0 to 3 consume with
// wgmma, warp 4 produces with TMA through a ring of two stages.
#pragma once

#include "simt/simt.cuh"

namespace mutants {

enum class HopperFault {
  NONE,
  EARLY_RELEASE,
  PARITY,
  NO_PROXY_FENCE,
  EARLY_PROXY_FENCE,
  NO_BARRIER,
  NO_WAIT,
  NO_WGMMA_FENCE,
  BYTES,
  NO_BARRIER_FENCE
};

struct HopperShared {
  __align__(1024) uint16_t a[2][64 * 64];
  __align__(1024) uint16_t b[2][64 * 64];
  uint64_t full[2], empty[2];
};

template <HopperFault FAULT>
__global__ void __launch_bounds__(160) hopper(const __grid_constant__ simt::TensorMap mapA,
                                              const __grid_constant__ simt::TensorMap mapB, float* c, int stages) {
  HopperShared& s = simt::shared<HopperShared>();
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  if (t == 0) {
    for (int i = 0; i < 2; ++i) {
      simt::mbar_init(&s.full[i], 1);
      simt::mbar_init(&s.empty[i], 128);
    }
    if (FAULT != HopperFault::NO_BARRIER_FENCE) simt::fence_barrier_init();
  }
  simt::syncthreads();
  if (warp == 4) {
    if (lane == 0) {
      for (int i = 0; i < stages; ++i) {
        const int stage = i & 1;
        if (i >= 2) simt::mbar_wait(&s.empty[stage], FAULT == HopperFault::PARITY ? 1 : ((i >> 1) - 1) & 1);
        simt::mbar_expect_tx(&s.full[stage], FAULT == HopperFault::BYTES ? 8192 : 16384);
        simt::tma_load_2d(s.a[stage], &mapA, i * 64, 0, &s.full[stage]);
        simt::tma_load_2d(s.b[stage], &mapB, 0, i * 64, &s.full[stage]);
      }
    }
    return;
  }
  float d[32] = {};
  for (int i = 0; i < stages; ++i) {
    const int stage = i & 1;
    simt::mbar_wait(&s.full[stage], (i >> 1) & 1);
    if (FAULT == HopperFault::EARLY_PROXY_FENCE) simt::fence_proxy_async();
    for (int j = t; j < 4096; j += 128) s.a[stage][j] ^= 0x8000;
    if (FAULT != HopperFault::NO_PROXY_FENCE && FAULT != HopperFault::EARLY_PROXY_FENCE) simt::fence_proxy_async();
    if (FAULT != HopperFault::NO_BARRIER) simt::bar_sync(1, 128);
    if (FAULT != HopperFault::NO_WGMMA_FENCE) simt::wgmma_fence();
    SIMT_UNROLL
    for (int k = 0; k < 4; ++k) {
      simt::wgmma_bf16<64, 0, 1>(d, simt::wgmma_desc(s.a[stage] + k * 16, 16, 1024),
                                 simt::wgmma_desc(s.b[stage] + k * 16 * 64, 8192, 1024));
    }
    simt::wgmma_commit();
    if (FAULT == HopperFault::EARLY_RELEASE) simt::mbar_arrive(&s.empty[stage]);
    if (FAULT != HopperFault::NO_WAIT || i + 1 < stages) simt::wgmma_wait<0>();
    if (FAULT != HopperFault::EARLY_RELEASE) simt::mbar_arrive(&s.empty[stage]);
  }
  SIMT_UNROLL
  for (int n = 0; n < 8; ++n) {
    float* p = c + (warp * 16 + (lane >> 2)) * 64 + n * 8 + (lane & 3) * 2;
    simt::st2(p, d[n * 4], d[n * 4 + 1]);
    simt::st2(p + 8 * 64, d[n * 4 + 2], d[n * 4 + 3]);
  }
  if (FAULT == HopperFault::NO_WAIT) simt::wgmma_wait<0>();
}

}  // namespace mutants
