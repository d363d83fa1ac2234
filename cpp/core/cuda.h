// The CUDA backend as the engine has it: the library, opened on demand; one stream of a device for each JavaScript
// environment; memory on that device. Nothing of CUDA is linked: without the library or without a driver there is an
// error that says so.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "../../cuda/backend.h"

namespace rankone::cuda {

// Opens the library, once in a process: the first that opens stays. Throws Error("cuda unavailable: reason").
void openLibrary(const std::string& path);
// The opened library's, or "".
std::string libraryPath();
// Of the opened library; at least 1. Throws Error("cuda unavailable: reason").
int deviceCount();
// Throws where the device cannot be used.
RankoneDeviceInfo deviceInfo(int device);

class Context;

// A place in the stream.
class Event {
 public:
  Event() = default;
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event();
  // Until the device is there; of any thread. Throws what went wrong on the device.
  void wait(const std::string& device) const;

 private:
  friend class Context;
  RankoneEvent* event_ = nullptr;
};

// A stream. Its functions may be called by any thread, and lock each other out; but for close() and what is said to be
// of later() they put work into the stream and return.
class Context {
 public:
  explicit Context(int device);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int device() const { return device_; }
  const std::string& name() const { return name_; }  // "cuda:0"

  // A function of the library's table with this stream and these arguments. Throws what it reports.
  template <class... P, class... A>
  void run(int (*RankoneCuda::*function)(RankoneStream*, P...), A... args) {
    std::lock_guard<std::mutex> hold(lock_);
    RankoneError error{};
    check((*tableFunction(function))(open(), args..., &error), error);
  }
  void upload(void* to, const void* from, size_t bytes);
  void download(void* to, const void* from, size_t bytes);  // waits for all that is in the stream
  void copy(void* to, const void* from, size_t bytes);
  void fill(void* to, int byte, size_t bytes);
  void synchronize();  // waits
  Event record();
  std::pair<uint64_t, uint64_t> usage();  // bytes in use and held of the device
  double peak(int32_t kind);              // operations per nanosecond of a kind of backend.h; waits
  int major() const { return deviceInfo(device_).major; }
  static size_t savedBytes(const RankoneRecurrence& problem) {
    return tableFunction(&RankoneCuda::savedBytes)(&problem);
  }

  // Runs a task on a thread of the context's own, in the order of the calls: waits for events are made there, so that
  // neither an environment's thread nor the engine's pool stands still for a device.
  void later(std::function<void()> task);
  // For tasks of later(): beside the stream, between whose events the caller has to place them. They wait.
  void uploadBeside(void* to, const void* from, size_t bytes);
  void downloadBeside(void* to, const void* from, size_t bytes);

  // Ends the tasks and the stream, whose memory goes with it. Later uses are errors, but for what frees something.
  void close();

 private:
  friend class Buffer;
  void* allocate(size_t bytes);
  void release(void* memory) noexcept;
  RankoneStream* open() const;
  RankoneStream* beside();
  void check(int code, const RankoneError& error) const;
  template <class F>
  static F tableFunction(F RankoneCuda::*function) {
    return expectFunction(table().*function);
  }
  template <class F>
  static F expectFunction(F function) {
    if (!function) failMissing();
    return function;
  }
  [[noreturn]] static void failMissing();
  static const RankoneCuda& table();
  void serve();

  const int device_;
  const std::string name_;
  std::mutex lock_;
  RankoneStream* stream_ = nullptr;  // under lock_
  RankoneStream* beside_ = nullptr;  // of the thread of later()

  std::mutex queueLock_;
  std::condition_variable queued_;
  std::deque<std::function<void()>> queue_;  // under queueLock_
  bool stopping_ = false;                    // under queueLock_
  std::thread thread_;                       // under queueLock_ until it stops
};

// Memory on a device. It may go while work that uses it is in the stream: what gets it next comes behind.
class Buffer {
 public:
  Buffer(std::shared_ptr<Context> context, size_t bytes);
  ~Buffer() { context_->release(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  const std::shared_ptr<Context>& context() const { return context_; }

 private:
  std::shared_ptr<Context> context_;
  size_t bytes_;
  void* data_;
};

// A host array's copy on the device, or room for one.
template <class T>
class Array {
 public:
  Array() = default;
  Array(const std::shared_ptr<Context>& context, size_t count)
      : buffer_(count ? std::make_shared<Buffer>(context, count * sizeof(T)) : nullptr) {}
  Array(const std::shared_ptr<Context>& context, const T* from, size_t count) : Array(context, count) {
    if (count) context->upload(buffer_->data(), from, count * sizeof(T));
  }
  T* data() const { return buffer_ ? static_cast<T*>(buffer_->data()) : nullptr; }

 private:
  std::shared_ptr<Buffer> buffer_;
};

}  // namespace rankone::cuda
