#include <algorithm>
#include <cstring>

#include "allocator.h"
#include "graph.h"
#include "staging.h"
#include "stream.h"

namespace rankone::cuda {

void expect(simt::Status status, const char* what) {
  if (status == 0) return;
  runtime::clearError();
  throw Failure(status, std::string(what) + ": " + runtime::errorText(status));
}

Stream::Stream(int device) : device_(device) {
  use();
  expect(runtime::deviceInfo(device, &info_), "opening the device");
  constexpr int kNoKernelImage = 209;  // cudaErrorNoKernelImageForDevice
  if (info_.major < 8)
    throw Failure(kNoKernelImage, "a device of compute capability 8.0 or later is needed, this one has " +
                                      std::to_string(info_.major) + "." + std::to_string(info_.minor));
  expect(runtime::createStream(&native_), "creating a stream");
  try {
    allocator_ = std::make_unique<Allocator>(device, native_);
    staging_ = std::make_unique<Staging>(native_);
  } catch (...) {
    runtime::destroyStream(native_);
    throw;
  }
}

Stream::~Stream() {
  runtime::setDevice(device_);
  runtime::synchronize(native_);
  staging_.reset();
  allocator_.reset();
  runtime::destroyStream(native_);
  runtime::clearError();
}

void Stream::use() { expect(runtime::setDevice(device_), "choosing the device"); }

void* Stream::allocate(size_t bytes) {
  use();
  return allocator_->allocate(bytes);
}

void Stream::release(void* memory) {
  if (runtime::setDevice(device_) == 0) allocator_->release(memory);
}

void Stream::upload(void* to, const void* hostFrom, size_t bytes) {
  use();
  staging_->upload(to, hostFrom, bytes);
}

void Stream::download(void* hostTo, const void* from, size_t bytes) {
  use();
  staging_->download(hostTo, from, bytes);
  if (bytes == 0) synchronize();
}

void Stream::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  use();
  expect(runtime::copy(native_, to, from, bytes), "copying");
}

void Stream::fill(void* to, int byte, size_t bytes) {
  if (bytes == 0) return;
  use();
  expect(runtime::fill(native_, to, byte, bytes), "filling memory");
}

void Stream::synchronize() {
  use();
  expect(runtime::synchronize(native_), "waiting for the stream");
}

void Stream::beginCapture() {
  use();
  expect(runtime::beginCapture(native_), "recording a graph");
  allocator_->beginCapture();
  staging_->beginCapture();
}

std::unique_ptr<RankoneGraph> Stream::endCapture() {
  use();
  auto graph = std::make_unique<RankoneGraph>(*this);
  graph->blocks = allocator_->endCapture();
  graph->pinned = staging_->endCapture();
  expect(runtime::endCapture(native_, &graph->native), "recording a graph");
  return graph;
}

}  // namespace rankone::cuda

RankoneGraph::~RankoneGraph() {
  namespace runtime = rankone::cuda::runtime;
  runtime::setDevice(stream.device());
  runtime::synchronize(stream.native());
  if (native) runtime::destroyGraph(native);
  stream.allocator().give(blocks);
  for (void* memory : pinned) runtime::freePinned(memory);
  runtime::clearError();
}
