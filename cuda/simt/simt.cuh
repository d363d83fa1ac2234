// What kernels may call, in namespace simt: one interface, two worlds.
//
//   nvcc  device.cuh: intrinsics and inline PTX
//   g++   test/simt/emulator.cuh: every thread of a grid emulated on the CPU, and checked
//
// A kernel includes this header last, holds no asm, and keeps its shared memory in one struct, shared<T>(). Include
// paths: -I cuda, and -I test for g++. What a primitive demands of its arguments stands at its declaration in
// device.cuh.
#pragma once

#if defined(__CUDACC__)
#include "simt/device.cuh"
#else
#include "simt/emulator.cuh"
#endif
