// Tests of the CUDA library, written against its table of functions alone: one program that runs emulated, plain and
// checked, and on a GPU.
//
//   TEST("name") {
//     Device device;
//     const DeviceArray q(device, random.normals({B, T, H, K})), o(device, {B, T, H, V}, DType::BF16);
//     RankoneRecurrenceForward args = {};
//     args.problem.q = q.floats(); args.o = o.data(); ...
//     device.recurrenceForward(args);
//     expectNear("o", o.host(), reference, Rows::Tokens, kBf16OutputLimit);
//   }
//
// check(), Array, Random and expectNear() are the native tests'. Arguments of the program choose tests by parts of
// their names. Under the emulator a test fails also when its launches left a finding.
#pragma once
#include <string>
#include <vector>

#include "backend.h"
#include "native/array.h"
#include "native/check.h"
#include "native/compare.h"
#include "native/random.h"

namespace rankone::test {

// The numerical contract's rows for bf16 arithmetic, beta at most 1 and, with Wide, at most 2.
constexpr double kBf16OutputLimit = 6e-3, kBf16StateLimit = 1e-2, kBf16GateLimit = 2e-2;
constexpr double kBf16WideOutputLimit = 1e-2, kBf16WideStateLimit = 1.5e-2, kBf16WideGateLimit = 3e-2;

const RankoneCuda& backend();
int32_t backendDType(DType dtype);

// A stream of a device. What fails throws Failure with the library's reason.
class Device {
 public:
  explicit Device(int index = 0);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  RankoneStream* stream() const { return stream_; }
  const RankoneDeviceInfo& info() const { return info_; }
  void synchronize();
  void recurrenceForward(const RankoneRecurrenceForward& args);
  void recurrenceBackward(const RankoneRecurrenceBackward& args);
  void loraForward(const RankoneLoraForward& args);
  void loraBackward(const RankoneLoraBackward& args);

 private:
  RankoneStream* stream_ = nullptr;
  RankoneDeviceInfo info_ = {};
};

// Device memory of a tensor. Memory that nothing was uploaded to holds NaNs (indices: -1); the emulator also knows that
// it was never written.
class DeviceArray {
 public:
  DeviceArray() = default;  // an argument that is absent
  DeviceArray(Device& device, const Shape& shape, DType dtype = DType::F32);
  DeviceArray(Device& device, const Array& host);  // absent stays absent
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept;
  ~DeviceArray();

  bool present() const { return device_ != nullptr; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  size_t bytes() const;
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  float* f32() const { return as<float>(); }
  RankoneFloats floats() const { return {data_, backendDType(dtype_)}; }

  Array host() const;  // waits for the stream
  void upload(const Array& host);

 private:
  Device* device_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::F32;
  void* data_ = nullptr;
};

// What the emulator has found since it was last asked; on a GPU nothing.
std::vector<std::string> findings();
// Products by wgmma in what has run since it was last asked; on a GPU -1.
int64_t wgmmaProducts();
// Before the first test.
void prepareDevices();

}  // namespace rankone::test
