#include "harness.h"

#include <stdexcept>
#include <utility>

namespace rankone::test {
namespace {

void expectDone(int code, const RankoneError& error, const char* what) {
  check(code == 0, "%s: %s (%d)", what, error.reason, error.code);
}

}  // namespace

int32_t backendDType(DType dtype) {
  switch (dtype) {
    case DType::F32: return RANKONE_F32;
    case DType::BF16: return RANKONE_BF16;
    case DType::F16: return RANKONE_F16;
    default: throw std::logic_error("no dtype of floats");
  }
}

Device::Device(int index) {
  RankoneError error;
  expectDone(backend().deviceInfo(index, &info_, &error), error, "deviceInfo");
  expectDone(backend().openStream(index, &stream_, &error), error, "openStream");
}

Device::~Device() { backend().closeStream(stream_); }

void Device::synchronize() {
  RankoneError error;
  expectDone(backend().synchronize(stream_, &error), error, "synchronize");
}
void Device::recurrenceForward(const RankoneRecurrenceForward& args) {
  RankoneError error;
  expectDone(backend().recurrenceForward(stream_, &args, &error), error, "recurrenceForward");
}
void Device::recurrenceBackward(const RankoneRecurrenceBackward& args) {
  RankoneError error;
  expectDone(backend().recurrenceBackward(stream_, &args, &error), error, "recurrenceBackward");
}
void Device::loraForward(const RankoneLoraForward& args) {
  RankoneError error;
  expectDone(backend().loraForward(stream_, &args, &error), error, "loraForward");
}
void Device::loraBackward(const RankoneLoraBackward& args) {
  RankoneError error;
  expectDone(backend().loraBackward(stream_, &args, &error), error, "loraBackward");
}

DeviceArray::DeviceArray(Device& device, const Shape& shape, DType dtype)
    : device_(&device), shape_(shape), dtype_(dtype) {
  RankoneError error;
  expectDone(backend().allocate(device.stream(), bytes(), &data_, &error), error, "allocate");
  if (!device.info().emulated) expectDone(backend().fill(device.stream(), data_, 0xff, bytes(), &error), error, "fill");
}

DeviceArray::DeviceArray(Device& device, const Array& host) {
  if (!host.present()) return;
  *this = DeviceArray(device, host.shape(), host.tensor().dtype);
  upload(host);
}

DeviceArray& DeviceArray::operator=(DeviceArray&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(shape_, other.shape_);
  std::swap(dtype_, other.dtype_);
  std::swap(data_, other.data_);
  return *this;
}

DeviceArray::~DeviceArray() {
  if (device_) backend().release(device_->stream(), data_);
}

size_t DeviceArray::bytes() const { return static_cast<size_t>(sizeOf(shape_)) * dtypeSize(dtype_); }

Array DeviceArray::host() const {
  if (!device_) return {};
  Array host(shape_, dtype_);
  RankoneError error;
  expectDone(backend().download(device_->stream(), host.tensor().data, data_, bytes(), &error), error, "download");
  return host;
}

void DeviceArray::upload(const Array& host) {
  check(host.tensor().bytes() == bytes(), "upload: sizes differ");
  RankoneError error;
  expectDone(backend().upload(device_->stream(), data_, host.tensor().data, bytes(), &error), error, "upload");
}

}  // namespace rankone::test
