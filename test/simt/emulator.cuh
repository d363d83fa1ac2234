// The interface of simt/simt.cuh under g++: see device.cuh beside it for what each function does. Each passes the
// source line of its caller on to the emulator, for reports.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "simt/emulator.h"
#include "simt/types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define SIMT_DEV inline __attribute__((always_inline))
#define SIMT_HOST_DEV inline __attribute__((always_inline))
#define SIMT_UNROLL
#define SIMT_NOUNROLL
#define SIMT_CONSTANT static const
#define SIMT_HAS_SM90A 1
#define SIMT_SITE const ::simt::emulator::Site site = {__builtin_FILE(), __builtin_LINE()}

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace simt {

// A tensor map: in host memory, copied by value.
struct TensorMap {
  const void* base;
  uint64_t sizes[4], strides[4];  // elements, bytes; strides[0] is the size of an element
  uint32_t box[4];
  int rank;
  Swizzle swizzle;
};

using Stream = void*;

// How a grid is started.
enum class Launch : int { PLAIN, DEPENDENT, CORESIDENT };

namespace emulator {

struct Site {
  const char* file;
  int line;
};

struct Indices {
  dim3 threadIndex, blockIndex, blockSize, gridSize;
  unsigned char* shared;
};
// Of the emulated thread that runs on this thread of the machine; set at every switch. Not thread_local, whose every
// use would ask whether it needs to be initialised.
extern __thread const Indices* indices __attribute__((tls_model("initial-exec")));

enum class Element { BF16, F16, TF32 };

int lane();
void syncthreads(Site);
void syncwarp(uint32_t mask, Site);
void barrier(int id, int threads, bool waits, Site);
uint64_t shuffle(uint64_t value, int source, Site);
uint32_t ballot(bool predicate, Site);
void ldmatrix(uint32_t* r, const void* p, int matrices, bool transposed, Site);
void stmatrix(void* p, const uint32_t* r, int matrices, bool transposed, Site);
void mma(Element type, float* d, const uint32_t* a, const uint32_t* b, Site);
void copyAsync(void* shared, const void* global, int size, int bytes, Site);
void commitCopies(Site);
void waitCopies(int pending, Site);
uint32_t loadAcquire(const uint32_t* p, Site);
void addRelease(uint32_t* p, uint32_t v, Site);
void pause(Site);
void initBarrier(uint64_t* bar, uint32_t arrivals, Site);
void fenceBarrierInit(Site);
void arrive(uint64_t* bar, uint32_t bytes, Site);
void wait(uint64_t* bar, uint32_t parity, Site);
void fenceProxyAsync(Site);
void tmaLoad(void* shared, const TensorMap* map, int rank, const int* at, uint64_t* bar, Site);
void tmaStore(const TensorMap* map, int rank, const int* at, const void* shared, Site);
void commitStores(Site);
void waitStores(int pending, bool onlyReads, Site);
uint64_t describe(const void* p, uint32_t leading, uint32_t stride, Swizzle swizzle);
void wgmmaFence(Site);
void wgmmaCommit(Site);
void wgmmaWait(int pending, Site);
struct Product {
  Element type;
  int columns;
  bool transposedA, transposedB, accumulate;
  const uint32_t* a;  // in registers, or null
  uint64_t descA, descB;
};
void wgmma(const Product&, float* d, Site);
void setMaxRegisters(int count, Site);
void nonCoherent(const void* p, size_t bytes, Site);

// Whether the program has code that calls the compiler's hooks, so that every byte's history must be kept.
extern bool shadowed;
#if defined(__SANITIZE_THREAD__)
constexpr bool instrumented = true;
inline const bool shadowedByThis = shadowed = true;
#else
constexpr bool instrumented = false;
#endif

struct LaunchConfig {
  const void* kernel;
  dim3 grid, block;
  size_t sharedBytes;
  Launch how;
  bool checked;
};
Status launch(const LaunchConfig&, void (*thread)(const void* call), const void* call);

}  // namespace emulator

// ---- shared memory, barriers, warps

template <class T>
SIMT_DEV T& shared() {
  return *reinterpret_cast<T*>(emulator::indices->shared);
}
SIMT_DEV void syncthreads(SIMT_SITE) { emulator::syncthreads(site); }
SIMT_DEV void syncwarp(uint32_t mask = ~0u, SIMT_SITE) { emulator::syncwarp(mask, site); }
SIMT_DEV void bar_sync(int id, int threads, SIMT_SITE) { emulator::barrier(id, threads, true, site); }
SIMT_DEV void bar_arrive(int id, int threads, SIMT_SITE) { emulator::barrier(id, threads, false, site); }

template <class T>
SIMT_DEV T shfl(T v, int lane, SIMT_SITE) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t u = 0;
  __builtin_memcpy(&u, &v, sizeof v);
  u = emulator::shuffle(u, lane & 31, site);
  __builtin_memcpy(&v, &u, sizeof v);
  return v;
}
template <class T>
SIMT_DEV T shfl_xor(T v, int mask, SIMT_SITE) {
  return shfl(v, emulator::lane() ^ (mask & 31), site);
}
template <class T>
SIMT_DEV T shfl_up(T v, int delta, SIMT_SITE) {
  const int lane = emulator::lane();
  return shfl(v, lane < delta ? lane : lane - delta, site);
}
template <class T>
SIMT_DEV T shfl_down(T v, int delta, SIMT_SITE) {
  const int lane = emulator::lane();
  return shfl(v, lane + delta > 31 ? lane : lane + delta, site);
}
SIMT_DEV uint32_t ballot(bool predicate, SIMT_SITE) { return emulator::ballot(predicate, site); }

// ---- matrices

SIMT_DEV void ldmatrix_x4(uint32_t (&r)[4], const void* p, SIMT_SITE) { emulator::ldmatrix(r, p, 4, false, site); }
SIMT_DEV void ldmatrix_x4_trans(uint32_t (&r)[4], const void* p, SIMT_SITE) { emulator::ldmatrix(r, p, 4, true, site); }
SIMT_DEV void ldmatrix_x2(uint32_t (&r)[2], const void* p, SIMT_SITE) { emulator::ldmatrix(r, p, 2, false, site); }
SIMT_DEV void ldmatrix_x2_trans(uint32_t (&r)[2], const void* p, SIMT_SITE) { emulator::ldmatrix(r, p, 2, true, site); }
SIMT_DEV void stmatrix_x4(void* p, const uint32_t (&r)[4], SIMT_SITE) { emulator::stmatrix(p, r, 4, false, site); }
SIMT_DEV void stmatrix_x4_trans(void* p, const uint32_t (&r)[4], SIMT_SITE) { emulator::stmatrix(p, r, 4, true, site); }
SIMT_DEV void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_SITE) {
  const uint32_t b[2] = {b0, b1};
  emulator::mma(emulator::Element::BF16, d, a, b, site);
}
SIMT_DEV void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_SITE) {
  const uint32_t b[2] = {b0, b1};
  emulator::mma(emulator::Element::F16, d, a, b, site);
}
SIMT_DEV void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_SITE) {
  const uint32_t b[2] = {b0, b1};
  emulator::mma(emulator::Element::TF32, d, a, b, site);
}

// ---- asynchronous copies

SIMT_DEV void cp_async16(void* s, const void* g, SIMT_SITE) { emulator::copyAsync(s, g, 16, 16, site); }
SIMT_DEV void cp_async16_zfill(void* s, const void* g, int bytes, SIMT_SITE) {
  emulator::copyAsync(s, g, 16, bytes, site);
}
SIMT_DEV void cp_async4(void* s, const void* g, SIMT_SITE) { emulator::copyAsync(s, g, 4, 4, site); }
SIMT_DEV void cp_async_commit(SIMT_SITE) { emulator::commitCopies(site); }
template <int N>
SIMT_DEV void cp_async_wait(SIMT_SITE) {
  emulator::waitCopies(N, site);
}

// ---- vector loads and stores: vector types, because g++ would split a copy of a struct

typedef float Float2 __attribute__((vector_size(8), may_alias));
typedef float Float4 __attribute__((vector_size(16), may_alias));
typedef uint32_t Word1 __attribute__((may_alias));
typedef uint32_t Word2 __attribute__((vector_size(8), may_alias));
typedef uint32_t Word4 __attribute__((vector_size(16), may_alias));

SIMT_DEV void ld2(float (&r)[2], const float* p) {
  const Float2 v = *reinterpret_cast<const Float2*>(p);
  r[0] = v[0], r[1] = v[1];
}
SIMT_DEV void ld2(uint32_t (&r)[2], const void* p) {
  const Word2 v = *reinterpret_cast<const Word2*>(p);
  r[0] = v[0], r[1] = v[1];
}
SIMT_DEV void ld4(float (&r)[4], const float* p) {
  const Float4 v = *reinterpret_cast<const Float4*>(p);
  r[0] = v[0], r[1] = v[1], r[2] = v[2], r[3] = v[3];
}
SIMT_DEV void ld4(uint32_t (&r)[4], const void* p) {
  const Word4 v = *reinterpret_cast<const Word4*>(p);
  r[0] = v[0], r[1] = v[1], r[2] = v[2], r[3] = v[3];
}
SIMT_DEV void ld4_nc(float (&r)[4], const float* p, SIMT_SITE) {
  if (emulator::instrumented) emulator::nonCoherent(p, 16, site);
  ld4(r, p);
}
SIMT_DEV void ld4_nc(uint32_t (&r)[4], const void* p, SIMT_SITE) {
  if (emulator::instrumented) emulator::nonCoherent(p, 16, site);
  ld4(r, p);
}
SIMT_DEV void st1x2(uint16_t* p, uint32_t v) { *reinterpret_cast<Word1*>(p) = v; }
SIMT_DEV void st2(float* p, float a, float b) { *reinterpret_cast<Float2*>(p) = Float2{a, b}; }
SIMT_DEV void st2(uint32_t* p, uint32_t a, uint32_t b) { *reinterpret_cast<Word2*>(p) = Word2{a, b}; }
SIMT_DEV void st4(void* p, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  *reinterpret_cast<Word4*>(p) = Word4{a, b, c, d};
}
SIMT_DEV void st4(float* p, const float (&v)[4]) { *reinterpret_cast<Float4*>(p) = Float4{v[0], v[1], v[2], v[3]}; }

// ---- between blocks

SIMT_DEV uint32_t load_acquire(const uint32_t* p, SIMT_SITE) { return emulator::loadAcquire(p, site); }
SIMT_DEV void add_release(uint32_t* p, uint32_t v, SIMT_SITE) { emulator::addRelease(p, v, site); }
SIMT_DEV void sleep(uint32_t, SIMT_SITE) { emulator::pause(site); }

// ---- Hopper

SIMT_DEV void mbar_init(uint64_t* bar, uint32_t arrivals, SIMT_SITE) { emulator::initBarrier(bar, arrivals, site); }
SIMT_DEV void fence_barrier_init(SIMT_SITE) { emulator::fenceBarrierInit(site); }
SIMT_DEV void mbar_expect_tx(uint64_t* bar, uint32_t bytes, SIMT_SITE) { emulator::arrive(bar, bytes, site); }
SIMT_DEV void mbar_arrive(uint64_t* bar, SIMT_SITE) { emulator::arrive(bar, 0, site); }
SIMT_DEV void mbar_wait(uint64_t* bar, uint32_t parity, SIMT_SITE) { emulator::wait(bar, parity, site); }
SIMT_DEV void fence_proxy_async(SIMT_SITE) { emulator::fenceProxyAsync(site); }

SIMT_DEV void tma_load_2d(void* s, const TensorMap* map, int x, int y, uint64_t* bar, SIMT_SITE) {
  const int at[] = {x, y};
  emulator::tmaLoad(s, map, 2, at, bar, site);
}
SIMT_DEV void tma_load_3d(void* s, const TensorMap* map, int x, int y, int z, uint64_t* bar, SIMT_SITE) {
  const int at[] = {x, y, z};
  emulator::tmaLoad(s, map, 3, at, bar, site);
}
SIMT_DEV void tma_load_4d(void* s, const TensorMap* map, int x, int y, int z, int w, uint64_t* bar, SIMT_SITE) {
  const int at[] = {x, y, z, w};
  emulator::tmaLoad(s, map, 4, at, bar, site);
}
SIMT_DEV void tma_store_2d(const TensorMap* map, int x, int y, const void* s, SIMT_SITE) {
  const int at[] = {x, y};
  emulator::tmaStore(map, 2, at, s, site);
}
SIMT_DEV void tma_store_3d(const TensorMap* map, int x, int y, int z, const void* s, SIMT_SITE) {
  const int at[] = {x, y, z};
  emulator::tmaStore(map, 3, at, s, site);
}
SIMT_DEV void tma_store_4d(const TensorMap* map, int x, int y, int z, int w, const void* s, SIMT_SITE) {
  const int at[] = {x, y, z, w};
  emulator::tmaStore(map, 4, at, s, site);
}
SIMT_DEV void tma_store_commit(SIMT_SITE) { emulator::commitStores(site); }
template <int N>
SIMT_DEV void tma_store_wait_read(SIMT_SITE) {
  emulator::waitStores(N, true, site);
}
template <int N>
SIMT_DEV void tma_store_wait(SIMT_SITE) {
  emulator::waitStores(N, false, site);
}

template <int N>
SIMT_DEV void set_max_registers_inc(SIMT_SITE) {
  emulator::setMaxRegisters(N, site);
}
template <int N>
SIMT_DEV void set_max_registers_dec(SIMT_SITE) {
  emulator::setMaxRegisters(N, site);
}
// Launches do not overlap here.
SIMT_DEV void griddep_wait() {}
SIMT_DEV void griddep_launch() {}

SIMT_DEV void wgmma_fence(SIMT_SITE) { emulator::wgmmaFence(site); }
SIMT_DEV void wgmma_commit(SIMT_SITE) { emulator::wgmmaCommit(site); }
template <int N>
SIMT_DEV void wgmma_wait(SIMT_SITE) {
  emulator::wgmmaWait(N, site);
}
SIMT_DEV uint64_t wgmma_desc(const void* p, uint32_t leading, uint32_t stride, Swizzle swizzle = Swizzle::B128) {
  return emulator::describe(p, leading, stride, swizzle);
}
template <int N, int TA = 0, int TB = 0>
SIMT_DEV void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true, SIMT_SITE) {
  emulator::wgmma({emulator::Element::BF16, N, TA != 0, TB != 0, accumulate, nullptr, a, b}, d, site);
}
template <int N, int TB = 0>
SIMT_DEV void wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate = true, SIMT_SITE) {
  emulator::wgmma({emulator::Element::BF16, N, false, TB != 0, accumulate, a, 0, b}, d, site);
}
template <int N, int TA = 0, int TB = 0>
SIMT_DEV void wgmma_f16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true, SIMT_SITE) {
  emulator::wgmma({emulator::Element::F16, N, TA != 0, TB != 0, accumulate, nullptr, a, b}, d, site);
}
template <int N, int TB = 0>
SIMT_DEV void wgmma_f16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate = true, SIMT_SITE) {
  emulator::wgmma({emulator::Element::F16, N, false, TB != 0, accumulate, a, 0, b}, d, site);
}

// ---- host

inline const char* statusText(Status status) {
  switch (status) {
    case 0: return "no error";
    case 1: return "invalid argument";
    case 9: return "invalid configuration argument";
    case 702: return "the launch timed out and was terminated";
    case 720: return "too many blocks in cooperative launch";
  }
  return "unknown error";
}

inline int most_threads(const void*) { return 1024; }

template <class... Parameters, class... Arguments>
Status launch_as(Launch how, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, Stream,
                 Arguments... arguments) {
  const auto call = [&]() { kernel(arguments...); };
  using Call = decltype(call);
  const emulator::LaunchConfig config = {
      reinterpret_cast<const void*>(kernel), grid, block, sharedBytes, how, emulator::instrumented};
  return emulator::launch(
      config, [](const void* c) { (*static_cast<Call*>(c))(); }, &call);
}

template <class... Parameters, class... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, Stream stream,
              Arguments... arguments) {
  return launch_as(Launch::PLAIN, kernel, grid, block, sharedBytes, stream, arguments...);
}

Status make_tensor_map(TensorMap* map, MapType type, int rank, const void* base, const uint64_t* sizes,
                       const uint64_t* strides, const uint32_t* box, Swizzle swizzle);

}  // namespace simt

#include "simt/arithmetic.h"

#define threadIdx (::simt::emulator::indices->threadIndex)
#define blockIdx (::simt::emulator::indices->blockIndex)
#define blockDim (::simt::emulator::indices->blockSize)
#define gridDim (::simt::emulator::indices->gridSize)
