// A stream of one device with its caching allocator, as launchers see it. Everything here throws Failure.
#pragma once
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend.h"
#include "runtime.h"

// Last, as everywhere: it names what CUDA and the emulator have in common.
#include "simt/simt.cuh"

namespace rankone::cuda {

class Failure : public std::exception {
 public:
  Failure(int code, std::string reason) : code(code), reason(std::move(reason)) {}
  const char* what() const noexcept override { return reason.c_str(); }
  const int code;  // CUDA's, never 0
  const std::string reason;
};

// Throws where status is an error; `what` says what was tried.
void expect(simt::Status status, const char* what);

class Allocator;
class Staging;

class Stream {
 public:
  explicit Stream(int device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  simt::Stream native() const { return native_; }
  int device() const { return device_; }
  const RankoneDeviceInfo& info() const { return info_; }

  // In stream order: released memory serves what is launched afterwards. 256-byte aligned; size 0 gives null.
  void* allocate(size_t bytes);
  void release(void* memory);
  void upload(void* to, const void* hostFrom, size_t bytes);
  void download(void* hostTo, const void* from, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);
  void fill(void* to, int byte, size_t bytes);
  void synchronize();
  Allocator& allocator() { return *allocator_; }

  // simt::launch on this stream, with this device current.
  template <class... P, class... A>
  void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t sharedBytes, A... args) {
    launchAs(simt::Launch::PLAIN, name, kernel, grid, block, sharedBytes, args...);
  }
  template <class... P, class... A>
  void launchAs(simt::Launch how, const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t sharedBytes,
                A... args) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    use();
    const simt::Stream native = native_;
    expect(runtime::enqueue(native,
                            [=] { return simt::launch_as(how, kernel, grid, block, sharedBytes, native, args...); }),
           name);
  }

  // Threads that a block of the kernel may have on this device: fewer than it is launched with where the library has no
  // code of it for the device.
  int mostThreads(const void* kernel) {
    use();
    return simt::most_threads(kernel);
  }

  // Between these two the stream's work is recorded for launch(), not done: nothing may wait for it.
  void beginCapture();
  std::unique_ptr<struct RankoneGraph> endCapture();

 private:
  void use();  // makes the device current in this thread

  int device_;
  simt::Stream native_{};
  RankoneDeviceInfo info_{};
  std::unique_ptr<Allocator> allocator_;
  std::unique_ptr<Staging> staging_;
};

// Workspace of a launcher, given back to the stream's allocator at the end of the scope.
template <class T>
class Scratch {
 public:
  Scratch() = default;
  Scratch(Stream& stream, size_t count)
      : stream_(&stream), data_(static_cast<T*>(stream.allocate(count * sizeof(T)))) {}
  // A host vector's elements.
  Scratch(Stream& stream, const std::vector<T>& from) : Scratch(stream, from.size()) {
    stream.upload(data_, from.data(), from.size() * sizeof(T));
  }
  Scratch(Scratch&& other) noexcept { *this = std::move(other); }
  Scratch& operator=(Scratch&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Scratch() {
    if (data_) stream_->release(data_);
  }
  T* data() const { return data_; }

 private:
  Stream* stream_ = nullptr;
  T* data_ = nullptr;
};

}  // namespace rankone::cuda
