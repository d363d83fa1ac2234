#include "core/cuda.h"

#include <chrono>
#include <new>

#include "core/error.h"
#include "core/workspace.h"

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace rankone::cuda {
namespace {

std::mutex libraryLock;
std::string openedPath;                    // under libraryLock
const RankoneCuda* openedTable = nullptr;  // under libraryLock; never closed

constexpr int kOutOfMemory = 2;  // cudaErrorMemoryAllocation

[[noreturn]] void failUnavailable(const std::string& reason) {
  fail(ErrorKind::Range, "cuda unavailable: %s", reason.c_str());
}

const RankoneCuda* opened() {
  std::lock_guard<std::mutex> hold(libraryLock);
  return openedTable;
}

const RankoneCuda& expectOpened() {
  const RankoneCuda* table = opened();
  if (!table) failUnavailable("no library has been opened");
  return *table;
}

#if defined(__linux__)
const RankoneCuda* load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    failUnavailable(why ? why : path + " cannot be opened");
  }
  using Entry = const RankoneCuda* (*)(uint32_t);
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "rankoneCuda"));
  const RankoneCuda* table = entry ? entry(RANKONE_CUDA_VERSION) : nullptr;
  if (table && table->version == RANKONE_CUDA_VERSION && table->bytes >= sizeof(RankoneCuda)) return table;
  dlclose(library);
  if (!entry) failUnavailable(path + " is no CUDA backend of rankone");
  failUnavailable(path + " is of another version than this engine, which needs version " +
                  std::to_string(RANKONE_CUDA_VERSION));
}
#else
const RankoneCuda* load(const std::string&) { failUnavailable("there is no backend for this platform"); }
#endif

[[noreturn]] void failOnDevice(const std::string& device, int code, const char* reason) {
  if (code == kOutOfMemory) fail(ErrorKind::Range, "out of memory on %s (%s)", device.c_str(), reason);
  fail(ErrorKind::State, "cuda error %d on %s: %s", code, device.c_str(), reason);
}

}  // namespace

void openLibrary(const std::string& path) {
  std::lock_guard<std::mutex> hold(libraryLock);
  if (openedTable) return;
  openedTable = load(path);
  openedPath = path;
}

std::string libraryPath() {
  std::lock_guard<std::mutex> hold(libraryLock);
  return openedPath;
}

int deviceCount() {
  const RankoneCuda& table = expectOpened();
  RankoneError error{};
  int32_t count = 0;
  if (table.deviceCount(&count, &error) != 0) failUnavailable(error.reason);
  if (count < 1) failUnavailable("no device");
  return count;
}

RankoneDeviceInfo deviceInfo(int device) {
  const RankoneCuda& table = expectOpened();
  RankoneError error{};
  RankoneDeviceInfo info{};
  if (const int code = table.deviceInfo(device, &info, &error); code != 0)
    failOnDevice("cuda:" + std::to_string(device), code, error.reason);
  return info;
}

Event::~Event() {
  if (event_) opened()->releaseEvent(event_);
}

void Event::wait(const std::string& device) const {
  RankoneError error{};
  if (const int code = event_ ? opened()->wait(event_, &error) : 0; code != 0) failOnDevice(device, code, error.reason);
}

Context::Context(int device) : device_(device), name_("cuda:" + std::to_string(device)) {
  RankoneError error{};
  check(table().openStream(device, &stream_, &error), error);
}

Context::~Context() { close(); }

const RankoneCuda& Context::table() { return expectOpened(); }

void Context::failMissing() { fail(ErrorKind::State, "cuda error: the opened library does not have this function"); }

void Context::check(int code, const RankoneError& error) const {
  if (code != 0) failOnDevice(name_, code, error.reason);
}

RankoneStream* Context::open() const {
  if (!stream_) fail(ErrorKind::State, "%s has been closed", name_.c_str());
  return stream_;
}

void Context::upload(void* to, const void* from, size_t bytes) {
  if (bytes) run(&RankoneCuda::upload, to, from, bytes);
}

void Context::download(void* to, const void* from, size_t bytes) {
  if (bytes)
    run(&RankoneCuda::download, to, from, bytes);
  else
    synchronize();
}

void Context::copy(void* to, const void* from, size_t bytes) {
  if (bytes) run(&RankoneCuda::copy, to, from, bytes);
}

void Context::fill(void* to, int byte, size_t bytes) {
  if (bytes) run(&RankoneCuda::fill, to, byte, bytes);
}

void Context::synchronize() { run(&RankoneCuda::synchronize); }

Event Context::record() {
  Event event;
  run(&RankoneCuda::record, &event.event_);
  return event;
}

double Context::peak(int32_t kind) {
  constexpr double kEnoughNs = 3e6;  // beside it the launch does not count
  using Clock = std::chrono::steady_clock;
  for (int64_t iterations = 1;; iterations *= 4) {
    double operations = 0;
    synchronize();
    const Clock::time_point start = Clock::now();
    run(&RankoneCuda::peak, kind, iterations, &operations);
    synchronize();
    const double ns = std::chrono::duration<double, std::nano>(Clock::now() - start).count();
    if (ns >= kEnoughNs) return operations / ns;
  }
}

std::pair<uint64_t, uint64_t> Context::usage() {
  std::lock_guard<std::mutex> hold(lock_);
  uint64_t used = 0, reserved = 0;
  table().memory(open(), &used, &reserved);
  return {used, reserved};
}

void* Context::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = nullptr;
  run(&RankoneCuda::allocate, bytes, &memory);
  if (memory && poisonRequested()) fill(memory, 0xff, bytes);
  return memory;
}

void Context::release(void* memory) noexcept {
  if (!memory) return;
  std::lock_guard<std::mutex> hold(lock_);
  if (stream_) opened()->release(stream_, memory);
}

RankoneStream* Context::beside() {
  RankoneError error{};
  if (!beside_) check(table().openStream(device_, &beside_, &error), error);
  return beside_;
}

void Context::uploadBeside(void* to, const void* from, size_t bytes) {
  if (!bytes) return;
  RankoneError error{};
  check(table().upload(beside(), to, from, bytes, &error), error);
  check(table().synchronize(beside(), &error), error);
}

void Context::downloadBeside(void* to, const void* from, size_t bytes) {
  if (!bytes) return;
  RankoneError error{};
  check(table().download(beside(), to, from, bytes, &error), error);
}

void Context::later(std::function<void()> task) {
  std::lock_guard<std::mutex> hold(queueLock_);
  if (stopping_) fail(ErrorKind::State, "%s has been closed", name_.c_str());
  queue_.push_back(std::move(task));
  if (!thread_.joinable()) thread_ = std::thread([this] { serve(); });
  queued_.notify_one();
}

void Context::serve() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock<std::mutex> hold(queueLock_);
      queued_.wait(hold, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

void Context::close() {
  {
    std::lock_guard<std::mutex> hold(queueLock_);
    stopping_ = true;
  }
  queued_.notify_one();
  if (thread_.joinable()) thread_.join();
  std::lock_guard<std::mutex> hold(lock_);
  for (RankoneStream** stream : {&beside_, &stream_})
    if (*stream) opened()->closeStream(std::exchange(*stream, nullptr));
}

Buffer::Buffer(std::shared_ptr<Context> context, size_t bytes)
    : context_(std::move(context)), bytes_(bytes), data_(context_->allocate(bytes)) {}

}  // namespace rankone::cuda
