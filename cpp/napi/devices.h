// Devices in JavaScript's hands: tensors on them, and what is done beside calls.
#pragma once
#include <napi.h>

#include <memory>

#include "core/cuda.h"
#include "core/tensor.h"

namespace rankone {

// What a DeviceTensor stands for: `count` elements in a buffer, which others may share.
struct DeviceMemory {
  std::shared_ptr<cuda::Buffer> buffer;  // null: disposed
  size_t offset = 0;                     // bytes
  DType dtype = DType::F32;
  int64_t count = 0;

  void* data() const { return static_cast<char*>(buffer->data()) + offset; }
  size_t bytes() const { return static_cast<size_t>(count) * dtypeSize(dtype); }
};

// An object that only deviceMemoryOf() can open. The garbage collector is told of the bytes unless they are shared.
napi_value wrapDevice(Napi::Env env, DeviceMemory memory, bool shared = false);

// The memory inside; null where `value` is something else. Error(State) where it has been disposed.
const DeviceMemory* deviceMemoryOf(Napi::Env env, napi_value value, const char* argument);

// The environment's stream of a device, opened at its first use.
std::shared_ptr<cuda::Context> contextOf(Napi::Env env, int device);

// A device's number as an argument: undefined, null and -1 stand for the CPU, which is null.
std::shared_ptr<cuda::Context> deviceOf(Napi::Env env, const Napi::Value& value);

// cudaOpen, deviceUpload, deviceDownload, ...: see ts/binding.ts.
void exportDevices(Napi::Env env, Napi::Object exports);

}  // namespace rankone
