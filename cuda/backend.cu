#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "allocator.h"
#include "backend.h"
#include "convert.h"
#include "graph.h"
#include "lora.h"
#include "mamba2.h"
#include "peak.h"
#include "recurrence.h"

using rankone::cuda::expect;
using rankone::cuda::Failure;
using rankone::cuda::Stream;
namespace runtime = rankone::cuda::runtime;

struct RankoneStream {
  explicit RankoneStream(int device) : stream(device) {}
  Stream stream;
};

struct RankoneEvent {
  runtime::Event native;
  int device;
};

namespace {

// cudaErrorMemoryAllocation and cudaErrorUnknown, for what is not CUDA's own failure.
constexpr int kOutOfMemory = 2, kUnknown = 999;

int fail(RankoneError* error, int code, const char* reason) {
  if (error) {
    error->code = code;
    const size_t length = std::min(std::strlen(reason), sizeof error->reason - 1);
    std::memcpy(error->reason, reason, length);
    error->reason[length] = 0;
  }
  return code;
}

// No exception leaves the library.
template <class Body>
int guarded(RankoneError* error, const Body& body) noexcept {
  try {
    body();
    if (error) error->code = 0, error->reason[0] = 0;
    return 0;
  } catch (const Failure& failure) {
    return fail(error, failure.code, failure.what());
  } catch (const std::bad_alloc&) {
    return fail(error, kOutOfMemory, "out of memory on the host");
  } catch (const std::exception& failure) {
    return fail(error, kUnknown, failure.what());
  } catch (...) {
    return fail(error, kUnknown, "unknown failure");
  }
}

// Events that were released, by device: creating one costs more than recording it.
struct EventPool {
  std::mutex mutex;
  std::map<int, std::vector<runtime::Event>> idle;
};
EventPool& events() {
  static auto* pool = new EventPool;  // threads may outlive static objects
  return *pool;
}

int deviceCount(int32_t* count, RankoneError* error) {
  return guarded(error, [&] {
    *count = 0;
    int n = 0;
    const simt::Status status = runtime::deviceCount(&n);
    if (status) {
      runtime::clearError();
      throw Failure(status, runtime::errorText(status));
    }
    *count = n;
  });
}

int deviceInfo(int32_t device, RankoneDeviceInfo* info, RankoneError* error) {
  return guarded(error, [&] { expect(runtime::deviceInfo(device, info), "asking for the device's properties"); });
}

int openStream(int32_t device, RankoneStream** stream, RankoneError* error) {
  *stream = nullptr;
  return guarded(error, [&] { *stream = new RankoneStream(device); });
}

void closeStream(RankoneStream* stream) { delete stream; }

int synchronize(RankoneStream* stream, RankoneError* error) {
  return guarded(error, [&] { stream->stream.synchronize(); });
}

void releaseEvent(RankoneEvent* event) {
  if (!event) return;
  const int failed = guarded(nullptr, [&] {
    EventPool& pool = events();
    const std::lock_guard<std::mutex> lock(pool.mutex);
    pool.idle[event->device].push_back(event->native);
  });
  if (failed) runtime::destroyEvent(event->native);
  delete event;
}

int record(RankoneStream* stream, RankoneEvent** event, RankoneError* error) {
  *event = nullptr;
  return guarded(error, [&] {
    const int device = stream->stream.device();
    expect(runtime::setDevice(device), "choosing the device");
    auto* created = new RankoneEvent{nullptr, device};
    try {
      EventPool& pool = events();
      {
        const std::lock_guard<std::mutex> lock(pool.mutex);
        std::vector<runtime::Event>& idle = pool.idle[device];
        if (!idle.empty()) {
          created->native = idle.back();
          idle.pop_back();
        }
      }
      if (!created->native) expect(runtime::createEvent(&created->native, true), "creating an event");
      expect(runtime::recordEvent(created->native, stream->stream.native()), "recording an event");
    } catch (...) {
      if (created->native) runtime::destroyEvent(created->native);
      delete created;
      throw;
    }
    *event = created;
  });
}

int wait(RankoneEvent* event, RankoneError* error) {
  return guarded(error, [&] {
    expect(runtime::setDevice(event->device), "choosing the device");  // else waiting would open the first one
    expect(runtime::waitForEvent(event->native), "waiting for the device");
  });
}

int elapsed(RankoneEvent* start, RankoneEvent* end, float* milliseconds, RankoneError* error) {
  return guarded(error, [&] {
    expect(runtime::elapsed(milliseconds, start->native, end->native), "reading the time between events");
  });
}

int beginCapture(RankoneStream* stream, RankoneError* error) {
  return guarded(error, [&] { stream->stream.beginCapture(); });
}

int endCapture(RankoneStream* stream, RankoneGraph** graph, RankoneError* error) {
  *graph = nullptr;
  return guarded(error, [&] { *graph = stream->stream.endCapture().release(); });
}

int launchGraph(RankoneGraph* graph, RankoneError* error) {
  return guarded(error, [&] {
    expect(runtime::setDevice(graph->stream.device()), "choosing the device");
    expect(runtime::launchGraph(graph->native, graph->stream.native()), "launching a graph");
  });
}

void releaseGraph(RankoneGraph* graph) { delete graph; }

int allocate(RankoneStream* stream, size_t size, void** memory, RankoneError* error) {
  *memory = nullptr;
  return guarded(error, [&] { *memory = stream->stream.allocate(size); });
}

void release(RankoneStream* stream, void* memory) {
  guarded(nullptr, [&] { stream->stream.release(memory); });
}

void memory(RankoneStream* stream, uint64_t* used, uint64_t* reserved) {
  stream->stream.allocator().count(used, reserved);
}

int trim(RankoneStream* stream, RankoneError* error) {
  return guarded(error, [&] {
    stream->stream.synchronize();
    stream->stream.allocator().trim();
  });
}

int upload(RankoneStream* stream, void* to, const void* hostFrom, size_t size, RankoneError* error) {
  return guarded(error, [&] { stream->stream.upload(to, hostFrom, size); });
}

int download(RankoneStream* stream, void* hostTo, const void* from, size_t size, RankoneError* error) {
  return guarded(error, [&] { stream->stream.download(hostTo, from, size); });
}

int copy(RankoneStream* stream, void* to, const void* from, size_t size, RankoneError* error) {
  return guarded(error, [&] { stream->stream.copy(to, from, size); });
}

int fill(RankoneStream* stream, void* to, int byte, size_t size, RankoneError* error) {
  return guarded(error, [&] { stream->stream.fill(to, byte, size); });
}

int convert(RankoneStream* stream, void* to, int32_t toDType, const void* from, int32_t fromDType, int64_t count,
            RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::convert(stream->stream, to, toDType, from, fromDType, count); });
}

int peak(RankoneStream* stream, int32_t kind, int64_t iterations, double* operations, RankoneError* error) {
  return guarded(error, [&] { *operations = rankone::cuda::peak(stream->stream, kind, iterations); });
}

size_t savedBytes(const RankoneRecurrence* problem) {
  size_t bytes = 0;
  guarded(nullptr, [&] { bytes = rankone::cuda::savedBytes(*problem); });
  return bytes;
}

int recurrenceForward(RankoneStream* stream, const RankoneRecurrenceForward* args, RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::recurrenceForward(stream->stream, *args); });
}

int recurrenceBackward(RankoneStream* stream, const RankoneRecurrenceBackward* args, RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::recurrenceBackward(stream->stream, *args); });
}

int loraForward(RankoneStream* stream, const RankoneLoraForward* args, RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::loraForward(stream->stream, *args); });
}

int loraBackward(RankoneStream* stream, const RankoneLoraBackward* args, RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::loraBackward(stream->stream, *args); });
}

int mamba2Prepare(RankoneStream* stream, const RankoneMamba2* args, float* step, float* g, RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::mamba2Prepare(stream->stream, *args, step, g); });
}

int mamba2Skip(RankoneStream* stream, const RankoneMamba2* args, RankoneFloats o, void* y, int32_t yDType,
               RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::mamba2Skip(stream->stream, *args, o, y, yDType); });
}

int mamba2Gradients(RankoneStream* stream, const RankoneMamba2* args, const RankoneMamba2Gradients* gradients,
                    RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::mamba2Gradients(stream->stream, *args, *gradients); });
}

int add(RankoneStream* stream, float* to, const float* from, int64_t count, RankoneError* error) {
  return guarded(error, [&] { rankone::cuda::add(stream->stream, to, from, count); });
}

const RankoneCuda table = {
    RANKONE_CUDA_VERSION,
    sizeof(RankoneCuda),
    deviceCount,
    deviceInfo,
    openStream,
    closeStream,
    synchronize,
    record,
    wait,
    elapsed,
    releaseEvent,
    beginCapture,
    endCapture,
    launchGraph,
    releaseGraph,
    allocate,
    release,
    memory,
    trim,
    upload,
    download,
    copy,
    fill,
    convert,
    peak,
    savedBytes,
    recurrenceForward,
    recurrenceBackward,
    loraForward,
    loraBackward,
    mamba2Prepare,
    mamba2Skip,
    mamba2Gradients,
    add,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const RankoneCuda* rankoneCuda(uint32_t version) {
  return version == RANKONE_CUDA_VERSION ? &table : nullptr;
}
