// The interface under nvcc, continued: what the host calls.
#pragma once

#include <cuda.h>

#include <map>
#include <mutex>
#include <utility>

#include "simt/device.cuh"

namespace simt {

using Stream = cudaStream_t;

inline const char* statusText(Status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

// The limit is one for all threads of the process: it must not be lowered between another's setting and its launch.
inline Status raise_shared_limit(const void* kernel, size_t bytes) {
  static auto* mutex = new std::mutex;
  static auto* limits = new std::map<std::pair<int, const void*>, size_t>;
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device)) return status;
  const std::lock_guard<std::mutex> lock(*mutex);
  size_t& limit = (*limits)[{device, kernel}];
  if (limit >= bytes) return cudaSuccess;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status == cudaSuccess) limit = bytes;
  return status;
}

// How many threads a block of the kernel may have on the current device; 0 where it has no such kernel.
inline int most_threads(const void* kernel) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess) return attributes.maxThreadsPerBlock;
  cudaGetLastError();  // an answer, not a failure that a later call should see
  return 0;
}

// How a grid is started.
enum class Launch : int {
  PLAIN,
  DEPENDENT,  // may start before the launch ahead of it in the stream has ended: see griddep_wait
  CORESIDENT  // all blocks at once, so that they may wait for one another; an error where they do not fit
};

template <class... Parameters, class... Arguments>
Status launch_as(Launch how, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, Stream stream,
                 Arguments... arguments) {
  if (sharedBytes > 48 * 1024)
    if (const Status status = raise_shared_limit(reinterpret_cast<const void*>(kernel), sharedBytes)) return status;
  cudaLaunchAttribute attribute = {};
  attribute.id =
      how == Launch::DEPENDENT ? cudaLaunchAttributeProgrammaticStreamSerialization : cudaLaunchAttributeCooperative;
  if (how == Launch::DEPENDENT) {
    attribute.val.programmaticStreamSerializationAllowed = 1;
  } else {
    attribute.val.cooperative = 1;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = sharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = how == Launch::PLAIN ? 0 : 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// 0, or a code that statusText explains.
template <class... Parameters, class... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, Stream stream,
              Arguments... arguments) {
  return launch_as(Launch::PLAIN, kernel, grid, block, sharedBytes, stream, arguments...);
}

// The driver's encoder, found through the runtime: this library does not link libcuda.
struct TensorMapEncoder {
  decltype(&cuTensorMapEncodeTiled) encode = nullptr;
  Status status = cudaSuccess;
  TensorMapEncoder() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    if (status == cudaSuccess && found != cudaDriverEntryPointSuccess) status = cudaErrorCallRequiresNewerDriver;
    encode = reinterpret_cast<decltype(encode)>(function);
  }
};

// A map of a tensor of `rank` (2 to 4) dimensions, innermost first: sizes and box in elements, strides in bytes between
// neighbours along dimensions 1, 2, ... (multiples of 16). Boxes may stick out: loads give zeros, stores write nothing.
inline Status make_tensor_map(TensorMap* map, MapType type, int rank, const void* base, const uint64_t* sizes,
                              const uint64_t* strides, const uint32_t* box, Swizzle swizzle) {
  static const TensorMapEncoder driver;
  if (driver.status != cudaSuccess) return driver.status;
  const CUtensorMapDataType dtype = type == MapType::BF16  ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                    : type == MapType::F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                           : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const CUtensorMapSwizzle mode = swizzle == Swizzle::B128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                  : swizzle == Swizzle::B64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                            : CU_TENSOR_MAP_SWIZZLE_NONE;
  cuuint64_t size[4], stride[4];
  cuuint32_t boxes[4], one[4];
  if (rank < 2 || rank > 4) return cudaErrorInvalidValue;
  for (int i = 0; i < rank; ++i) size[i] = sizes[i], boxes[i] = box[i], one[i] = 1;
  for (int i = 0; i + 1 < rank; ++i) stride[i] = strides[i];
  const CUresult result = driver.encode(map, dtype, static_cast<cuuint32_t>(rank), const_cast<void*>(base), size,
                                        stride, boxes, one, CU_TENSOR_MAP_INTERLEAVE_NONE, mode,
                                        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace simt
