#include "ops/state.h"

#include <cstring>

#include "core/error.h"

namespace rankone {

StateBuffer::StateBuffer(int64_t n, int64_t hv, int64_t k, int64_t v, int64_t h)
    : batch(n), valueHeads(hv), keyDim(k), valueDim(v), keyHeads(h), buffer_(bytes()) {
  std::memset(buffer_.data(), 0, buffer_.bytes());
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
}

}  // namespace rankone
