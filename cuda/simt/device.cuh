// The interface under nvcc: intrinsics and inline PTX. Functions of Hopper trap on earlier architectures, so that one
// source compiles for all of them.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simt/types.h"

#define SIMT_DEV __device__ __forceinline__
#define SIMT_HOST_DEV __host__ __device__ __forceinline__
#define SIMT_UNROLL _Pragma("unroll")
#define SIMT_NOUNROLL _Pragma("unroll 1")
// A table: SIMT_CONSTANT float table[16] = {...}, at namespace scope.
#define SIMT_CONSTANT static __constant__

namespace simt {

// ---- shared memory, barriers, warps

extern __shared__ __align__(1024) unsigned char dynamic_shared[];

// The block's dynamic shared memory, 1024-byte aligned. Its size is what the launch names.
template <class T>
SIMT_DEV T& shared() {
  return *reinterpret_cast<T*>(dynamic_shared);
}

SIMT_DEV uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

SIMT_DEV void syncthreads() { __syncthreads(); }
SIMT_DEV void syncwarp(uint32_t mask = ~0u) { __syncwarp(mask); }

// Barrier `id`, 1 to 15, of `threads` threads in all, a multiple of 32: whole warps arrive or wait.
SIMT_DEV void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
SIMT_DEV void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// Of 4 or 8 bytes, by the whole warp.
template <class T>
SIMT_DEV T shfl(T v, int lane) {
  return __shfl_sync(~0u, v, lane);
}
template <class T>
SIMT_DEV T shfl_xor(T v, int mask) {
  return __shfl_xor_sync(~0u, v, mask);
}
template <class T>
SIMT_DEV T shfl_up(T v, int delta) {
  return __shfl_up_sync(~0u, v, delta);
}
template <class T>
SIMT_DEV T shfl_down(T v, int delta) {
  return __shfl_down_sync(~0u, v, delta);
}
SIMT_DEV uint32_t ballot(bool predicate) { return __ballot_sync(~0u, predicate); }

// ---- matrices of 8x8 16-bit elements; every lane gives the address of a 16-byte row

SIMT_DEV void ldmatrix_x4(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
SIMT_DEV void ldmatrix_x4_trans(uint32_t (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
// Lanes 0 to 15 give the rows.
SIMT_DEV void ldmatrix_x2(uint32_t (&r)[2], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(p))
               : "memory");
}
SIMT_DEV void ldmatrix_x2_trans(uint32_t (&r)[2], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(p))
               : "memory");
}

// d[16x8] += a[16x16] b[16x8], operands bf16 or f16 in pairs, d in f32.
SIMT_DEV void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
SIMT_DEV void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// d[16x8] += a[16x8] b[8x8]; operands are f32 bits, of which the 13 lowest are not looked at.
SIMT_DEV void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- asynchronous copies of Ampere: global to shared memory, seen by the copying thread after its wait

SIMT_DEV void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
// Reads `bytes`, 0 to 16, and fills the rest of the 16 with zeros.
SIMT_DEV void cp_async16_zfill(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
SIMT_DEV void cp_async4(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
SIMT_DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's groups are under way.
template <int N>
SIMT_DEV void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- arithmetic

SIMT_DEV uint32_t f32_bits(float x) { return __float_as_uint(x); }
SIMT_DEV float f32_from_bits(uint32_t u) { return __uint_as_float(u); }

// Approximations to about 2 ulp; results and arguments below 2^-126 are zero.
SIMT_DEV float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SIMT_DEV float lg2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SIMT_DEV float rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SIMT_DEV float rsqrt(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Conversions round to nearest even; NaN becomes 0x7fff.
SIMT_DEV uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
SIMT_DEV uint32_t pack_f16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
SIMT_DEV uint16_t f32_to_bf16(float x) {
  uint16_t r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
}
SIMT_DEV uint16_t f32_to_f16(float x) {
  uint16_t r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
}
SIMT_DEV float bf16_to_f32(uint16_t u) { return __uint_as_float(static_cast<uint32_t>(u) << 16); }
SIMT_DEV float f16_to_f32(uint16_t u) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(u));
  return r;
}
// To the nearest tf32, ties away from zero, as f32 bits.
SIMT_DEV uint32_t to_tf32(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

// ---- vector loads and stores, shared or global memory, aligned to their size

SIMT_DEV void ld2(float (&r)[2], const float* p) {
  const float2 v = *reinterpret_cast<const float2*>(p);
  r[0] = v.x, r[1] = v.y;
}
SIMT_DEV void ld2(uint32_t (&r)[2], const void* p) {
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  r[0] = v.x, r[1] = v.y;
}
SIMT_DEV void ld4(float (&r)[4], const float* p) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
SIMT_DEV void ld4(uint32_t (&r)[4], const void* p) {
  const uint4 v = *reinterpret_cast<const uint4*>(p);
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
// Global memory that nobody writes during the launch.
SIMT_DEV void ld4_nc(float (&r)[4], const float* p) {
  const float4 v = __ldg(reinterpret_cast<const float4*>(p));
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
SIMT_DEV void ld4_nc(uint32_t (&r)[4], const void* p) {
  const uint4 v = __ldg(reinterpret_cast<const uint4*>(p));
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
// Two 16-bit elements.
SIMT_DEV void st1x2(uint16_t* p, uint32_t v) { *reinterpret_cast<uint32_t*>(p) = v; }
SIMT_DEV void st2(float* p, float a, float b) { *reinterpret_cast<float2*>(p) = make_float2(a, b); }
SIMT_DEV void st2(uint32_t* p, uint32_t a, uint32_t b) { *reinterpret_cast<uint2*>(p) = make_uint2(a, b); }
SIMT_DEV void st4(void* p, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  *reinterpret_cast<uint4*>(p) = make_uint4(a, b, c, d);
}
SIMT_DEV void st4(float* p, const float (&v)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
}

// ---- between blocks: counters in global memory

SIMT_DEV uint32_t load_acquire(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
SIMT_DEV void add_release(uint32_t* p, uint32_t v) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
SIMT_DEV void sleep(uint32_t nanoseconds) { asm volatile("nanosleep.u32 %0;" ::"r"(nanoseconds)); }

}  // namespace simt

#include "simt/hopper.cuh"
#include "simt/launch.cuh"
#include "simt/wgmma.cuh"
