#include "napi/devices.h"

#include <cmath>
#include <cstring>

#include "napi/arguments.h"
#include "napi/environment.h"
#include "napi/handle.h"
#include "napi/tasks.h"

namespace rankone {
namespace {

constexpr napi_type_tag kDeviceTag = {0x7d14e2a96b3c58f0, 0xb02f91c3d85e6a47};

Handle<DeviceMemory>& deviceHandle(Napi::Env env, napi_value value) {
  return unwrap<DeviceMemory>(env, value, kDeviceTag, "tensor", "a DeviceTensor");
}

const DeviceMemory& expectDevice(Napi::Env env, napi_value value) {
  const Handle<DeviceMemory>& handle = deviceHandle(env, value);
  if (!handle.object) fail(ErrorKind::State, "tensor: it has been disposed");
  return *handle.object;
}

// A host array of float elements, with the bytes that a tensor on a device has or shall have.
ArrayView floatArray(Napi::Env env, napi_value value) {
  ArrayView view;
  if (!viewOf(env, value, view) || (view.type != napi_float32_array && view.type != napi_uint16_array &&
                                    static_cast<int>(view.type) != 11))  // napi_float16_array
    fail(ErrorKind::Type, "tensor: expected a Float32Array, a Uint16Array or a Float16Array");
  return view;
}

DType dtypeOf(const Napi::Value& value) {
  const uint32_t dtype = value.As<Napi::Number>().Uint32Value();
  if (dtype > static_cast<uint32_t>(DType::F16)) fail(ErrorKind::Type, "tensor: expected dtype f32, bf16 or f16");
  return static_cast<DType>(dtype);
}

void expectBytes(const ArrayView& view, const DeviceMemory& memory) {
  const bool half = view.type != napi_float32_array;
  if (half != (memory.dtype != DType::F32) || static_cast<int64_t>(view.length) != memory.count)
    fail(ErrorKind::Range, "tensor: expected an array of %lld elements of %s, got one of %zu",
         static_cast<long long>(memory.count), dtypeName(memory.dtype), view.length);
}

// A transfer that is made beside the stream, or a wait for what is in it.
struct Transfer : Task {
  const char* name = nullptr;
  DeviceMemory memory;      // read or written
  AlignedBuffer host;       // what is sent
  void* into = nullptr;     // what is received, memory of `kept`
  napi_ref kept = nullptr;  // what the promise's value is
  std::exception_ptr error;

  void run(cuda::Context& device, std::exception_ptr before) {
    error = before;
    if (error) return;
    try {
      if (into) device.downloadBeside(into, memory.data(), memory.bytes());
      if (host.data()) device.uploadBeside(memory.data(), host.data(), memory.bytes());
    } catch (...) {
      error = std::current_exception();
    }
  }
  void settle(Napi::Env env) override {
    napi_value value = env.Undefined();
    if (kept) {
      check(env, napi_get_reference_value(env, kept, &value));
      napi_delete_reference(env, kept);
    }
    if (error)
      napi_reject_deferred(env, deferred, jsError(env, name, error).Value());
    else
      napi_resolve_deferred(env, deferred, value);
  }
  void letGo() override { memory.buffer.reset(); }
};

Napi::Value start(Napi::Env env, const std::shared_ptr<Transfer>& task, const std::shared_ptr<cuda::Context>& device,
                  napi_value kept) {
  napi_value promise;
  if (kept) check(env, napi_create_reference(env, kept, 1, &task->kept));
  check(env, napi_create_promise(env, &task->deferred, &promise));
  try {
    afterDevice(env, task, device,
                [task = task.get(), device](std::exception_ptr error) { task->run(*device, error); });
  } catch (...) {
    if (task->kept) napi_delete_reference(env, task->kept);
    throw;
  }
  return Napi::Value(env, promise);
}

DeviceMemory room(Napi::Env env, const Napi::Value& device, DType dtype, size_t count) {
  const auto context = deviceOf(env, device);
  if (!context) fail(ErrorKind::Range, "device: expected a CUDA device");
  return {std::make_shared<cuda::Buffer>(context, count * dtypeSize(dtype)), 0, dtype, static_cast<int64_t>(count)};
}

// deviceUpload(device, array, dtype)
Napi::Value deviceUpload(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "toDevice", [&] {
    const ArrayView view = floatArray(info.Env(), info[1]);
    DeviceMemory memory = room(info.Env(), info[0], dtypeOf(info[2]), view.length);
    expectBytes(view, memory);
    memory.buffer->context()->upload(memory.data(), view.data, memory.bytes());
    return Napi::Value(info.Env(), wrapDevice(info.Env(), std::move(memory)));
  });
}

Napi::Value deviceUploadAsync(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "toDevice", [&] {
    const ArrayView view = floatArray(info.Env(), info[1]);
    auto task = std::make_shared<Transfer>();
    task->name = "toDevice";
    task->memory = room(info.Env(), info[0], dtypeOf(info[2]), view.length);
    expectBytes(view, task->memory);
    task->host = AlignedBuffer(task->memory.bytes());
    if (view.length) std::memcpy(task->host.data(), view.data, task->memory.bytes());
    const napi_value result = wrapDevice(info.Env(), task->memory);
    return start(info.Env(), task, task->memory.buffer->context(), result);
  });
}

// deviceDownload(tensor, array)
Napi::Value deviceDownload(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "DeviceTensor.toHost", [&] {
    const DeviceMemory& memory = expectDevice(info.Env(), info[0]);
    const ArrayView view = floatArray(info.Env(), info[1]);
    expectBytes(view, memory);
    memory.buffer->context()->download(view.data, memory.data(), memory.bytes());
    return info.Env().Undefined();
  });
}

// A copy of the tensor as it is at this place of the stream: what comes later may write to it.
DeviceMemory copyOf(const DeviceMemory& from) {
  const auto& device = from.buffer->context();
  DeviceMemory copy{std::make_shared<cuda::Buffer>(device, from.bytes()), 0, from.dtype, from.count};
  device->copy(copy.data(), from.data(), from.bytes());
  return copy;
}

// The promise's value is the array, which nobody else may touch until then.
Napi::Value deviceDownloadAsync(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "DeviceTensor.toHost", [&] {
    const DeviceMemory& memory = expectDevice(info.Env(), info[0]);
    const ArrayView view = floatArray(info.Env(), info[1]);
    expectBytes(view, memory);
    auto task = std::make_shared<Transfer>();
    task->name = "DeviceTensor.toHost";
    task->memory = copyOf(memory);
    task->into = view.data;
    return start(info.Env(), task, task->memory.buffer->context(), info[1]);
  });
}

Napi::Value deviceClone(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "DeviceTensor.clone", [&] {
    return Napi::Value(info.Env(), wrapDevice(info.Env(), copyOf(expectDevice(info.Env(), info[0]))));
  });
}

// deviceView(tensor, first, count): elements of the same memory.
Napi::Value deviceView(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "DeviceTensor", [&] {
    DeviceMemory part = expectDevice(info.Env(), info[0]);
    const int64_t first = info[1].As<Napi::Number>().Int64Value(), count = info[2].As<Napi::Number>().Int64Value();
    if (first < 0 || count < 0 || first > part.count || count > part.count - first)
      fail(ErrorKind::Range, "tensor: expected a part of it");
    part.offset += static_cast<size_t>(first) * dtypeSize(part.dtype);
    part.count = count;
    return Napi::Value(info.Env(), wrapDevice(info.Env(), std::move(part), true));
  });
}

Napi::Value deviceDispose(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "DeviceTensor.dispose", [&] {
    drop(info.Env(), deviceHandle(info.Env(), info[0]));
    return info.Env().Undefined();
  });
}

// deviceSynchronize(device), ...Async(device)
Napi::Value deviceSynchronize(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "synchronize", [&] {
    if (const auto device = deviceOf(info.Env(), info[0])) device->synchronize();
    return info.Env().Undefined();
  });
}

Napi::Value deviceSynchronizeAsync(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "synchronize", [&] {
    auto task = std::make_shared<Transfer>();
    task->name = "synchronize";
    const auto device = deviceOf(info.Env(), info[0]);
    if (!device) fail(ErrorKind::Range, "device: expected a CUDA device");
    return start(info.Env(), task, device, nullptr);
  });
}

// deviceMemory(device): [bytes in use, bytes held]
Napi::Value deviceMemory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "deviceMemory", [&] {
    const auto device = deviceOf(info.Env(), info[0]);
    if (!device) fail(ErrorKind::Range, "device: expected a CUDA device");
    const auto [used, reserved] = device->usage();
    Napi::Array list = Napi::Array::New(info.Env());
    defineElement(info.Env(), list, 0, Napi::Number::New(info.Env(), static_cast<double>(used)));
    defineElement(info.Env(), list, 1, Napi::Number::New(info.Env(), static_cast<double>(reserved)));
    return Napi::Value(list);
  });
}

// devicePeak(device, kind): operations per nanosecond.
Napi::Value devicePeak(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "devicePeak", [&] {
    const auto device = deviceOf(info.Env(), info[0]);
    if (!device) fail(ErrorKind::Range, "device: expected a CUDA device");
    const int32_t kind = info[1].ToString().Utf8Value() == "f32" ? RANKONE_PEAK_FMA
                         : device->major() == 9                  ? RANKONE_PEAK_WGMMA
                                                                 : RANKONE_PEAK_MMA;
    return Napi::Value(Napi::Number::New(info.Env(), device->peak(kind)));
  });
}

// A device that cannot be used keeps its number, with the reason.
Napi::Object describe(Napi::Env env, int index) {
  Napi::Object o = Napi::Object::New(env);
  RankoneDeviceInfo device{};
  try {
    device = cuda::deviceInfo(index);
  } catch (const std::exception& error) {
    o.Set("reason", Napi::String::New(env, error.what()));
  }
  o.Set("name", Napi::String::New(env, device.name));
  o.Set("computeCapability", std::to_string(device.major) + "." + std::to_string(device.minor));
  o.Set("multiprocessors", static_cast<double>(device.multiprocessors));
  o.Set("memoryBytes", static_cast<double>(device.memoryBytes));
  o.Set("freeBytes", static_cast<double>(device.freeBytes));
  o.Set("emulated", device.emulated != 0);
  return o;
}

// cudaOpen(path): opens the library, unless one is open, and answers {path, devices} of the open one.
Napi::Value cudaOpen(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "cuda", [&] {
    cuda::openLibrary(info[0].ToString().Utf8Value());
    Napi::Array devices = Napi::Array::New(info.Env());
    const int count = cuda::deviceCount();
    for (int i = 0; i < count; ++i) devices.Set(static_cast<uint32_t>(i), describe(info.Env(), i));
    Napi::Object o = Napi::Object::New(info.Env());
    o.Set("path", Napi::String::New(info.Env(), cuda::libraryPath()));
    o.Set("devices", devices);
    return Napi::Value(o);
  });
}

}  // namespace

napi_value wrapDevice(Napi::Env env, DeviceMemory memory, bool shared) {
  const size_t bytes = shared ? 0 : memory.bytes();
  return wrap(env, std::make_shared<DeviceMemory>(std::move(memory)), bytes, kDeviceTag);
}

const DeviceMemory* deviceMemoryOf(Napi::Env env, napi_value value, const char* argument) {
  bool tagged = false;
  napi_valuetype type;
  void* data = nullptr;
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_object ||
      napi_check_object_type_tag(env, value, &kDeviceTag, &tagged) != napi_ok || !tagged ||
      napi_unwrap(env, value, &data) != napi_ok || !data)
    return nullptr;
  const auto& handle = *static_cast<Handle<DeviceMemory>*>(data);
  if (!handle.object) fail(ErrorKind::State, "%s: it has been disposed", argument);
  return handle.object.get();
}

std::shared_ptr<cuda::Context> contextOf(Napi::Env env, int device) {
  auto& devices = Environment::of(env).async->devices;
  const auto found = devices.find(device);
  if (found != devices.end()) return found->second;
  return devices.emplace(device, std::make_shared<cuda::Context>(device)).first->second;
}

std::shared_ptr<cuda::Context> deviceOf(Napi::Env env, const Napi::Value& value) {
  if (!value.IsNumber()) return nullptr;
  const double index = value.As<Napi::Number>().DoubleValue();
  if (index < 0) return nullptr;
  const int count = cuda::deviceCount();
  if (!(index < count) || index != std::floor(index))
    fail(ErrorKind::Range, "device: expected one of cuda:0 to cuda:%d, got cuda:%g", count - 1, index);
  return contextOf(env, static_cast<int>(index));
}

void exportDevices(Napi::Env env, Napi::Object exports) {
  exports.Set("cudaOpen", Napi::Function::New<cudaOpen>(env));
  exports.Set("deviceUpload", Napi::Function::New<deviceUpload>(env));
  exports.Set("deviceUploadAsync", Napi::Function::New<deviceUploadAsync>(env));
  exports.Set("deviceDownload", Napi::Function::New<deviceDownload>(env));
  exports.Set("deviceDownloadAsync", Napi::Function::New<deviceDownloadAsync>(env));
  exports.Set("deviceClone", Napi::Function::New<deviceClone>(env));
  exports.Set("deviceView", Napi::Function::New<deviceView>(env));
  exports.Set("deviceDispose", Napi::Function::New<deviceDispose>(env));
  exports.Set("deviceSynchronize", Napi::Function::New<deviceSynchronize>(env));
  exports.Set("deviceSynchronizeAsync", Napi::Function::New<deviceSynchronizeAsync>(env));
  exports.Set("deviceMemory", Napi::Function::New<deviceMemory>(env));
  exports.Set("devicePeak", Napi::Function::New<devicePeak>(env));
}

}  // namespace rankone
