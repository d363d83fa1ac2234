#include "ops/state.h"

#include <cstring>

#include "core/error.h"

namespace rankone {

StateBuffer::StateBuffer(int64_t n, int64_t hv, int64_t k, int64_t v, int64_t h, std::shared_ptr<cuda::Context> where)
    : batch(n), valueHeads(hv), keyDim(k), valueDim(v), keyHeads(h), device(std::move(where)) {
  if (device) {
    deviceBuffer_ = std::make_shared<cuda::Buffer>(device, bytes());
    device->fill(data(), 0, bytes());
  } else {
    buffer_ = AlignedBuffer(bytes());
    std::memset(buffer_.data(), 0, buffer_.bytes());
  }
}

void StateBuffer::read(float* state, float* z) const {
  const size_t stateBytes = static_cast<size_t>(size()) * sizeof(float);
  const auto copy = [&](float* to, const float* from, size_t count) {
    device ? device->download(to, from, count) : static_cast<void>(std::memcpy(to, from, count));
  };
  copy(state, data(), stateBytes);
  if (z && keyHeads) copy(z, this->z(), bytes() - stateBytes);
}

void StateBuffer::write(const float* state, const float* z) {
  const size_t stateBytes = static_cast<size_t>(size()) * sizeof(float), zBytes = bytes() - stateBytes;
  if (device) {
    device->upload(data(), state, stateBytes);
    if (z && keyHeads)
      device->upload(this->z(), z, zBytes);
    else if (keyHeads)
      device->fill(this->z(), 0, zBytes);
    return;
  }
  std::memcpy(data(), state, stateBytes);
  if (z && keyHeads)
    std::memcpy(this->z(), z, zBytes);
  else if (keyHeads)
    std::memset(this->z(), 0, zBytes);
}

void StateBuffer::copyFrom(const StateBuffer& other) {
  if (device)
    device->copy(data(), other.data(), bytes());
  else
    std::memcpy(data(), other.data(), bytes());
}

void StateBuffer::acquire() {
  if (disposed_) fail(ErrorKind::State, "state: it has been disposed");
  if (busy_.exchange(true)) fail(ErrorKind::State, "state: it is busy in another call");
}

void StateBuffer::dispose() {
  if (disposed_) return;
  if (busy_.load()) fail(ErrorKind::State, "state: it is busy in a call and cannot be disposed");
  disposed_ = true;
  buffer_ = AlignedBuffer();
  deviceBuffer_.reset();
}

}  // namespace rankone
