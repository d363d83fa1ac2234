#include "runtime.h"

#if defined(__CUDACC__)  // under g++ test/cuda/emulated_runtime.cpp has these

#include <cstdio>

namespace rankone::cuda::runtime {
namespace {

cudaEvent_t nativeEvent(Event event) { return static_cast<cudaEvent_t>(event); }

// Whether this process uses the device already: asking for its free memory would put a context there, of some hundred
// megabytes. The driver knows; it is found through the runtime, for the library does not link it.
bool inUse(int device) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &function, 7000, cudaEnableDefault, &found);
  if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) return false;
  unsigned flags = 0;
  int active = 0;
  const auto ask = reinterpret_cast<decltype(&cuDevicePrimaryCtxGetState)>(function);
  return ask(device, &flags, &active) == CUDA_SUCCESS && active;
}

}  // namespace

simt::Status deviceCount(int* count) { return cudaGetDeviceCount(count); }

simt::Status deviceInfo(int device, RankoneDeviceInfo* info) {
  *info = {};
  cudaDeviceProp properties;
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, device)) return status;
  std::snprintf(info->name, sizeof info->name, "%.127s", properties.name);
  info->major = properties.major;
  info->minor = properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->l2Bytes = static_cast<uint64_t>(properties.l2CacheSize);
  info->memoryBytes = info->freeBytes = properties.totalGlobalMem;
  if (!inUse(device)) return cudaSuccess;
  if (const simt::Status status = setDevice(device)) return status;
  size_t free = 0, total = 0;
  const cudaError_t status = cudaMemGetInfo(&free, &total);
  info->freeBytes = free;
  return status;
}

simt::Status setDevice(int device) { return cudaSetDevice(device); }
void clearError() { cudaGetLastError(); }
const char* errorText(simt::Status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

simt::Status createStream(simt::Stream* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking); }
simt::Status destroyStream(simt::Stream stream) { return cudaStreamDestroy(stream); }
simt::Status synchronize(simt::Stream stream) { return cudaStreamSynchronize(stream); }

simt::Status createEvent(Event* event, bool blocking) {
  cudaEvent_t created = nullptr;
  const cudaError_t status = cudaEventCreateWithFlags(&created, blocking ? cudaEventBlockingSync : cudaEventDefault);
  *event = created;
  return status;
}
simt::Status destroyEvent(Event event) { return cudaEventDestroy(nativeEvent(event)); }
simt::Status recordEvent(Event event, simt::Stream stream) { return cudaEventRecord(nativeEvent(event), stream); }
simt::Status waitForEvent(Event event) { return cudaEventSynchronize(nativeEvent(event)); }
simt::Status reached(Event event, bool* yes) {
  const cudaError_t status = cudaEventQuery(nativeEvent(event));
  *yes = status != cudaErrorNotReady;
  if (*yes) return status;
  clearError();
  return cudaSuccess;
}
simt::Status elapsed(float* milliseconds, Event start, Event end) {
  return cudaEventElapsedTime(milliseconds, nativeEvent(start), nativeEvent(end));
}

simt::Status allocate(void** memory, size_t bytes) { return cudaMalloc(memory, bytes); }
simt::Status free(void* memory) { return cudaFree(memory); }
simt::Status freeAfter(simt::Stream, void* memory) { return cudaFree(memory); }
simt::Status allocatePinned(void** memory, size_t bytes) { return cudaHostAlloc(memory, bytes, cudaHostAllocDefault); }
simt::Status freePinned(void* memory) { return cudaFreeHost(memory); }

simt::Status upload(simt::Stream stream, void* to, const void* from, size_t bytes) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream);
}
simt::Status download(simt::Stream stream, void* to, const void* from, size_t bytes) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream);
}
simt::Status copy(simt::Stream stream, void* to, const void* from, size_t bytes) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}
simt::Status fill(simt::Stream stream, void* to, int byte, size_t bytes) {
  return cudaMemsetAsync(to, byte, bytes, stream);
}

// Relaxed: a launcher may have to allocate while it is recorded.
simt::Status beginCapture(simt::Stream stream) { return cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed); }
simt::Status endCapture(simt::Stream stream, Graph* graph) {
  cudaGraph_t recorded = nullptr;
  if (const cudaError_t status = cudaStreamEndCapture(stream, &recorded)) return status;
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, recorded, 0);
  cudaGraphDestroy(recorded);
  *graph = executable;
  return status;
}
simt::Status launchGraph(Graph graph, simt::Stream stream) {
  return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream);
}
simt::Status destroyGraph(Graph graph) { return cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

}  // namespace rankone::cuda::runtime

#endif
