// cuda/runtime.h for the emulated library: a device is the emulator in test/simt, a stream a thread that does what is
// queued to it. An error of queued work comes back from the next call that waits, and stays, as with CUDA.
//
//   RANKONE_EMULATED_DEVICES     how many there are (1)
//   RANKONE_EMULATED_MEMORY      bytes of each (2^30)
//   RANKONE_EMULATED_CAPABILITY  of all: 80, 90, ... (80)
//   RANKONE_EMULATED_BROKEN      the number of one that cannot be used (none)
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "runtime.h"
#include "simt/emulator.h"

namespace rankone::cuda::runtime {
namespace {

using Clock = std::chrono::steady_clock;
using Call = std::function<simt::Status()>;

constexpr int kInvalidValue = 1, kOutOfMemory = 2, kUnavailable = 46, kInvalidDevice = 101, kNotReady = 600,
              kLaunchFailure = 719, kStreamCaptureUnsupported = 900;

int setting(const char* name, int fallback) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoi(text) : fallback;
}
uint64_t memoryOfDevice() {
  const char* text = std::getenv("RANKONE_EMULATED_MEMORY");
  return text && *text ? std::strtoull(text, nullptr, 10) : uint64_t{1} << 30;
}

thread_local int currentDevice = 0;

struct Mark {  // what a recorded event waits for
  std::mutex mutex;
  std::condition_variable reached;
  bool done = false;
  simt::Status status = 0;
  Clock::time_point time;
};

struct EventState {
  std::shared_ptr<Mark> mark;
};

class Queue {
 public:
  explicit Queue(int device) : device(device), thread_([this] { work(); }) {}
  ~Queue() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  const int device;

  // After a failure only what must happen anyhow is done.
  simt::Status put(Call call, bool always = false) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (capturing_) {
      captured_.push_back({std::move(call), always});
    } else {
      tasks_.push_back({std::move(call), always});
      changed_.notify_all();
    }
    return 0;
  }
  simt::Status wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (capturing_) return kStreamCaptureUnsupported;
    changed_.wait(lock, [&] { return tasks_.empty() && !busy_; });
    return failure_;
  }
  simt::Status failure() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return failure_;
  }

  struct Task {
    Call call;
    bool always;
  };
  simt::Status beginCapture() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (capturing_) return kStreamCaptureUnsupported;
    capturing_ = true;
    return 0;
  }
  std::vector<Task> endCapture() {
    const std::lock_guard<std::mutex> lock(mutex_);
    capturing_ = false;
    return std::exchange(captured_, {});
  }

 private:
  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const Task task = std::move(tasks_.front());
      tasks_.pop_front();
      if (failure_ && !task.always) continue;
      busy_ = true;
      lock.unlock();
      simt::Status status;
      try {
        status = task.call();
      } catch (...) {
        status = kLaunchFailure;
      }
      lock.lock();
      busy_ = false;
      if (!failure_) failure_ = status;
      if (tasks_.empty()) changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  std::vector<Task> captured_;
  simt::Status failure_ = 0;
  bool busy_ = false, ending_ = false, capturing_ = false;
  std::thread thread_;  // last: it uses the others
};

struct Devices {
  std::mutex mutex;
  std::map<void*, std::pair<int, size_t>> blocks;  // by address: device, bytes
  std::map<int, uint64_t> used;
  std::map<Queue*, std::shared_ptr<Queue>> queues;  // shared with who waits for it while it is closed
};
Devices& devices() {
  static auto* all = new Devices;  // threads may outlive static objects
  return *all;
}

Queue* queueOf(simt::Stream stream) { return static_cast<Queue*>(stream); }

void forget(void* memory) {
  Devices& all = devices();
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.blocks.find(memory);
    if (found == all.blocks.end()) return;
    all.used[found->second.first] -= found->second.second;
    all.blocks.erase(found);
  }
  simt::emulator::free(memory);
}

}  // namespace

// Of a block, at most.
static size_t sharedBytesOf(int major, int minor) {
  if (major == 8 && minor == 0) return 163 << 10;
  return major == 9 || major == 10 ? 227 << 10 : 99 << 10;
}

simt::Status deviceCount(int* count) {
  *count = setting("RANKONE_EMULATED_DEVICES", 1);
  return *count > 0 ? 0 : 100;
}

simt::Status deviceInfo(int device, RankoneDeviceInfo* info) {
  *info = {};
  if (const simt::Status status = setDevice(device)) return status;
  if (device == setting("RANKONE_EMULATED_BROKEN", -1)) return kUnavailable;
  const int capability = setting("RANKONE_EMULATED_CAPABILITY", 80);
  std::snprintf(info->name, sizeof info->name, "emulated device %d", device);
  info->major = capability / 10;
  info->minor = capability % 10;
  simt::emulator::options.sharedBytes = sharedBytesOf(info->major, info->minor);
  info->multiprocessors = 4;
  info->emulated = 1;
  info->l2Bytes = 1 << 20;
  info->memoryBytes = memoryOfDevice();
  Devices& all = devices();
  const std::lock_guard<std::mutex> lock(all.mutex);
  info->freeBytes = info->memoryBytes - all.used[device];
  return 0;
}

simt::Status setDevice(int device) {
  if (device < 0 || device >= setting("RANKONE_EMULATED_DEVICES", 1)) return kInvalidDevice;
  currentDevice = device;
  return 0;
}
void clearError() {}
const char* errorText(simt::Status status) {
  switch (status) {
    case kOutOfMemory: return "out of memory";
    case kUnavailable: return "CUDA-capable device(s) is/are busy or unavailable";
    case 100: return "no CUDA-capable device is detected";
    case kInvalidDevice: return "invalid device ordinal";
    case kNotReady: return "device not ready";
    case kLaunchFailure: return "unspecified launch failure";
    case kStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
  }
  return simt::statusText(status);
}

simt::Status createStream(simt::Stream* stream) {
  auto queue = std::make_shared<Queue>(currentDevice);
  Devices& all = devices();
  const std::lock_guard<std::mutex> lock(all.mutex);
  *stream = queue.get();
  all.queues.emplace(queue.get(), std::move(queue));
  return 0;
}
simt::Status destroyStream(simt::Stream stream) {
  std::shared_ptr<Queue> last;  // joined outside the lock: what is queued may take it
  Devices& all = devices();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.queues.find(queueOf(stream));
  last = std::move(found->second);
  all.queues.erase(found);
  return 0;
}
simt::Status synchronize(simt::Stream stream) { return queueOf(stream)->wait(); }
simt::Status enqueue(simt::Stream stream, Call call) { return queueOf(stream)->put(std::move(call)); }

simt::Status createEvent(Event* event, bool) {
  *event = new EventState;
  return 0;
}
simt::Status destroyEvent(Event event) {
  delete static_cast<EventState*>(event);
  return 0;
}
simt::Status recordEvent(Event event, simt::Stream stream) {
  Queue* queue = queueOf(stream);
  auto mark = std::make_shared<Mark>();
  static_cast<EventState*>(event)->mark = mark;
  return queue->put(
      [queue, mark] {
        const std::lock_guard<std::mutex> lock(mark->mutex);
        mark->status = queue->failure();
        mark->time = Clock::now();
        mark->done = true;
        mark->reached.notify_all();
        return 0;
      },
      true);
}
simt::Status waitForEvent(Event event) {
  const std::shared_ptr<Mark> mark = static_cast<EventState*>(event)->mark;
  if (!mark) return 0;
  std::unique_lock<std::mutex> lock(mark->mutex);
  mark->reached.wait(lock, [&] { return mark->done; });
  return mark->status;
}
simt::Status reached(Event event, bool* yes) {
  const std::shared_ptr<Mark> mark = static_cast<EventState*>(event)->mark;
  *yes = true;
  if (!mark) return 0;
  const std::lock_guard<std::mutex> lock(mark->mutex);
  *yes = mark->done;
  return mark->status;
}
simt::Status elapsed(float* milliseconds, Event start, Event end) {
  const std::shared_ptr<Mark> a = static_cast<EventState*>(start)->mark, b = static_cast<EventState*>(end)->mark;
  if (!a || !b) return kInvalidValue;
  const std::lock_guard<std::mutex> lockA(a->mutex), lockB(b->mutex);
  if (!a->done || !b->done) return kNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(b->time - a->time).count();
  return 0;
}

simt::Status allocate(void** memory, size_t bytes) {
  Devices& all = devices();
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    uint64_t& used = all.used[currentDevice];
    if (bytes > memoryOfDevice() - std::min(used, memoryOfDevice())) return kOutOfMemory;
    used += bytes;
  }
  *memory = simt::emulator::allocate(bytes, false);
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.blocks[*memory] = {currentDevice, bytes};
  return 0;
}
simt::Status free(void* memory) {
  std::vector<std::shared_ptr<Queue>> queues;
  {
    Devices& all = devices();
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (const auto& entry : all.queues) queues.push_back(entry.second);
  }
  for (const auto& queue : queues) queue->wait();
  forget(memory);
  return 0;
}
simt::Status freeAfter(simt::Stream stream, void* memory) {
  return queueOf(stream)->put(
      [memory] {
        forget(memory);
        return 0;
      },
      true);
}
simt::Status allocatePinned(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory ? 0 : kOutOfMemory;
}
simt::Status freePinned(void* memory) {
  std::free(memory);
  return 0;
}

simt::Status upload(simt::Stream stream, void* to, const void* from, size_t bytes) {
  return copy(stream, to, from, bytes);
}
simt::Status download(simt::Stream stream, void* to, const void* from, size_t bytes) {
  return enqueue(stream, [=] {
    std::memcpy(to, from, bytes);
    return 0;
  });
}
simt::Status copy(simt::Stream stream, void* to, const void* from, size_t bytes) {
  return enqueue(stream, [=] {
    std::memmove(to, from, bytes);
    simt::emulator::markInitialised(to, bytes);
    return 0;
  });
}
simt::Status fill(simt::Stream stream, void* to, int byte, size_t bytes) {
  return enqueue(stream, [=] {
    std::memset(to, byte, bytes);
    simt::emulator::markInitialised(to, bytes);
    return 0;
  });
}

simt::Status beginCapture(simt::Stream stream) { return queueOf(stream)->beginCapture(); }
simt::Status endCapture(simt::Stream stream, Graph* graph) {
  *graph = new std::vector<Queue::Task>(queueOf(stream)->endCapture());
  return 0;
}
simt::Status launchGraph(Graph graph, simt::Stream stream) {
  for (const Queue::Task& task : *static_cast<std::vector<Queue::Task>*>(graph))
    queueOf(stream)->put(task.call, task.always);
  return 0;
}
simt::Status destroyGraph(Graph graph) {
  delete static_cast<std::vector<Queue::Task>*>(graph);
  return 0;
}

}  // namespace rankone::cuda::runtime
