// The interface under nvcc, continued: mbarriers, TMA and wgmma of Hopper (sm_90, wgmma and register counts sm_90a).
#pragma once

#include <cuda.h>

#include "simt/device.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define SIMT_SM90(...) __VA_ARGS__
#else
#define SIMT_SM90(...) __trap()
#endif
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SIMT_SM90A(...) __VA_ARGS__
#define SIMT_HAS_SM90A 1
#else
#define SIMT_SM90A(...) __trap()
#define SIMT_HAS_SM90A 0
#endif

namespace simt {

SIMT_DEV void stmatrix_x4(void* p, const uint32_t (&r)[4]) {
  SIMT_SM90(asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(p)),
                         "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                         : "memory"));
}
SIMT_DEV void stmatrix_x4_trans(void* p, const uint32_t (&r)[4]) {
  SIMT_SM90(asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(p)),
                         "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                         : "memory"));
}

// ---- mbarriers: uint64_t in shared memory; a phase ends with `arrivals` arrivals and all expected bytes

// By one thread; then fence_barrier_init() and a barrier before others use it.
SIMT_DEV void mbar_init(uint64_t* bar, uint32_t arrivals) {
  SIMT_SM90(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals)
                         : "memory"));
}
SIMT_DEV void fence_barrier_init() { SIMT_SM90(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory")); }
// Arrives, and expects `bytes` of copies.
SIMT_DEV void mbar_expect_tx(uint64_t* bar, uint32_t bytes) {
  SIMT_SM90(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes)
                         : "memory"));
}
SIMT_DEV void mbar_arrive(uint64_t* bar) {
  SIMT_SM90(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory"));
}
// Waits for the end of the phase of this parity: 0 for the first, third, ... phase.
SIMT_DEV void mbar_wait(uint64_t* bar, uint32_t parity) {
  SIMT_SM90(asm volatile(
      "{\n.reg .pred p;\nL_%=:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra L_%=;\n}" ::"r"(
          shared_address(bar)),
      "r"(parity)
      : "memory"));
}
// After ordinary writes to shared memory that TMA or wgmma reads next: by each writing thread, before the barrier.
SIMT_DEV void fence_proxy_async() { SIMT_SM90(asm volatile("fence.proxy.async.shared::cta;" ::: "memory")); }

// ---- TMA, by one thread; the map a __grid_constant__ parameter, coordinates in elements, innermost first

using TensorMap = CUtensorMap;

SIMT_DEV void tma_load_2d(void* shared, const TensorMap* map, int x, int y, uint64_t* bar) {
  SIMT_SM90(
      asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
                   "%4}], [%2];" ::"r"(shared_address(shared)),
                   "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y)
                   : "memory"));
}
SIMT_DEV void tma_load_3d(void* shared, const TensorMap* map, int x, int y, int z, uint64_t* bar) {
  SIMT_SM90(
      asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
                   "%4, %5}], [%2];" ::"r"(shared_address(shared)),
                   "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z)
                   : "memory"));
}
SIMT_DEV void tma_load_4d(void* shared, const TensorMap* map, int x, int y, int z, int w, uint64_t* bar) {
  SIMT_SM90(
      asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
                   "%4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
                   "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z), "r"(w)
                   : "memory"));
}
SIMT_DEV void tma_store_2d(const TensorMap* map, int x, int y, const void* shared) {
  SIMT_SM90(asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                         "r"(shared_address(shared)), "r"(x), "r"(y)
                         : "memory"));
}
SIMT_DEV void tma_store_3d(const TensorMap* map, int x, int y, int z, const void* shared) {
  SIMT_SM90(asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
                         "r"(shared_address(shared)), "r"(x), "r"(y), "r"(z)
                         : "memory"));
}
SIMT_DEV void tma_store_4d(const TensorMap* map, int x, int y, int z, int w, const void* shared) {
  SIMT_SM90(
      asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                   "r"(shared_address(shared)), "r"(x), "r"(y), "r"(z), "r"(w)
                   : "memory"));
}
SIMT_DEV void tma_store_commit() { SIMT_SM90(asm volatile("cp.async.bulk.commit_group;" ::: "memory")); }
// Until at most N groups of this thread still read shared memory (then it may be written again) ...
template <int N>
SIMT_DEV void tma_store_wait_read() {
  SIMT_SM90(asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"));
}
// ... or are not yet written. Before the block ends, one of the two must have waited for all.
template <int N>
SIMT_DEV void tma_store_wait() {
  SIMT_SM90(asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"));
}

// ---- register counts of a warpgroup's role, and launches that overlap

template <int N>
SIMT_DEV void set_max_registers_inc() {
  SIMT_SM90A(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)));
}
template <int N>
SIMT_DEV void set_max_registers_dec() {
  SIMT_SM90A(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)));
}
// In a kernel started by launch_dependent: waits until the launch before it has ended and its writes are seen. Without
// effect elsewhere and before Hopper.
SIMT_DEV void griddep_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next launch may start once every block has said so or ended.
SIMT_DEV void griddep_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- wgmma: by the four warps of a warpgroup

SIMT_DEV void wgmma_fence() { SIMT_SM90A(asm volatile("wgmma.fence.sync.aligned;" ::: "memory")); }
SIMT_DEV void wgmma_commit() { SIMT_SM90A(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")); }
// Until at most N groups are under way; accumulators are not to be touched before.
template <int N>
SIMT_DEV void wgmma_wait() {
  SIMT_SM90A(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"));
}

// An operand in shared memory; distances in bytes, rows along M or N.
//   k next to each other (T = 0): atoms of 8 rows of 128 (B128) or 64 (B64) bytes, `stride` from one to the next along
//   the
//     rows; `leading` unused
//   transposed (T = 1), rows next to each other: atoms of 8 k of 64 or 32 rows, `stride` from one to the next along k,
//     `leading` along the rows
//   without a swizzle: atoms of 8 times 16 bytes, `stride` along the rows, `leading` along k, T or not
SIMT_DEV uint64_t wgmma_desc(const void* p, uint32_t leading, uint32_t stride, Swizzle swizzle = Swizzle::B128) {
  const uint64_t mode = swizzle == Swizzle::B128 ? 1 : swizzle == Swizzle::B64 ? 2 : 0;
  return static_cast<uint64_t>((shared_address(p) & 0x3FFFF) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | mode << 62;
}

}  // namespace simt
