// What the library wants of a device beside kernels: one set of functions, two worlds. Under nvcc they are cudart's
// (runtime.cu); the emulated library has a thread for every stream, which does what is queued to it
// (test/cuda/emulated_runtime.cpp). Each returns 0 or CUDA's number of the error.
#pragma once
#include <cstddef>
#include <functional>

#include "backend.h"
#include "simt/simt.cuh"

namespace rankone::cuda::runtime {

using Event = void*;
using Graph = void*;

simt::Status deviceCount(int* count);
simt::Status deviceInfo(int device, RankoneDeviceInfo* info);
simt::Status setDevice(int device);  // of this thread
// The last error of this thread is forgotten, where it is one that can be.
void clearError();
const char* errorText(simt::Status status);

simt::Status createStream(simt::Stream* stream);
simt::Status destroyStream(simt::Stream stream);
simt::Status synchronize(simt::Stream stream);

// A thread that waits for an event sleeps (blocking) or spins.
simt::Status createEvent(Event* event, bool blocking);
simt::Status destroyEvent(Event event);
simt::Status recordEvent(Event event, simt::Stream stream);
simt::Status waitForEvent(Event event);
simt::Status reached(Event event, bool* yes);
simt::Status elapsed(float* milliseconds, Event start, Event end);

simt::Status allocate(void** memory, size_t bytes);
// Waits for the device's work.
simt::Status free(void* memory);
// After what is in the stream; may wait.
simt::Status freeAfter(simt::Stream stream, void* memory);
simt::Status allocatePinned(void** memory, size_t bytes);
simt::Status freePinned(void* memory);

// Host memory must be pinned.
simt::Status upload(simt::Stream stream, void* to, const void* from, size_t bytes);
simt::Status download(simt::Stream stream, void* to, const void* from, size_t bytes);
simt::Status copy(simt::Stream stream, void* to, const void* from, size_t bytes);
simt::Status fill(simt::Stream stream, void* to, int byte, size_t bytes);

// Between these the stream's work is recorded, not done.
simt::Status beginCapture(simt::Stream stream);
simt::Status endCapture(simt::Stream stream, Graph* graph);
simt::Status launchGraph(Graph graph, simt::Stream stream);
simt::Status destroyGraph(Graph graph);

#if defined(__CUDACC__)
// A call of simt::launch, which returns before the kernel has run.
template <class Call>
simt::Status enqueue(simt::Stream, const Call& call) {
  return call();
}
#else
simt::Status enqueue(simt::Stream stream, std::function<simt::Status()> call);
#endif

}  // namespace rankone::cuda::runtime
