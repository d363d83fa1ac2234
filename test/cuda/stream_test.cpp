// Streams, memory, events and graphs.
#include <cstdlib>
#include <cstring>
#include <thread>

#include "harness.h"

namespace rankone::test {
namespace {

// A variable of the environment, while this lives. RANKONE_CUDA_MEMORY is read when a stream is opened.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) {
    const char* before = std::getenv(name);
    before_ = before ? before : "";
    setenv(name, value, 1);
  }
  ~Setting() { setenv(name_, before_.c_str(), 1); }

 private:
  const char* name_;
  std::string before_;
};

void* allocate(Device& device, size_t bytes) {
  RankoneError error;
  void* memory = nullptr;
  check(backend().allocate(device.stream(), bytes, &memory, &error) == 0, "allocate: %s", error.reason);
  return memory;
}
void release(Device& device, void* memory) { backend().release(device.stream(), memory); }

uint64_t used(Device& device) {
  uint64_t used = 0, reserved = 0;
  backend().memory(device.stream(), &used, &reserved);
  return used;
}
uint64_t reserved(Device& device) {
  uint64_t used = 0, reserved = 0;
  backend().memory(device.stream(), &used, &reserved);
  return reserved;
}

void convert(Device& device, const DeviceArray& to, const DeviceArray& from) {
  RankoneError error;
  check(backend().convert(device.stream(), to.data(), backendDType(to.dtype()), from.data(), backendDType(from.dtype()),
                          sizeOf(from.shape()), &error) == 0,
        "convert: %s", error.reason);
}

RankoneEvent* record(Device& device) {
  RankoneError error;
  RankoneEvent* event = nullptr;
  check(backend().record(device.stream(), &event, &error) == 0, "record: %s", error.reason);
  return event;
}

TEST("stream: the table") {
  check(backend().version == RANKONE_CUDA_VERSION, "version");
  check(backend().bytes == sizeof(RankoneCuda), "bytes");
  RankoneError error;
  int32_t count = 0;
  check(backend().deviceCount(&count, &error) == 0 && count >= 1, "deviceCount: %s", error.reason);
  RankoneDeviceInfo info;
  check(backend().deviceInfo(0, &info, &error) == 0, "deviceInfo: %s", error.reason);
  check(info.name[0] && info.major >= 8 && info.multiprocessors > 0 && info.freeBytes <= info.memoryBytes, "info");
  const int code = backend().deviceInfo(count, &info, &error);
  check(code != 0 && error.code == code && std::strstr(error.reason, "invalid device ordinal"), "no such device: %s",
        error.reason);
  RankoneStream* stream = nullptr;
  check(backend().openStream(-1, &stream, &error) != 0 && !stream, "a stream of no device");
}

TEST("stream: uploads and downloads of every size, across the staging's slots") {
  Device device;
  Random random(2);
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{255}, size_t{4099}, (size_t{4} << 20) + 5}) {
    std::vector<unsigned char> from(bytes), to(bytes, 0);
    for (unsigned char& x : from) x = static_cast<unsigned char>(random.bits());
    const std::vector<unsigned char> kept = from;
    void* a = allocate(device, bytes);
    void* b = allocate(device, bytes);
    check((a == nullptr) == (bytes == 0), "allocate(0)");
    check(reinterpret_cast<uintptr_t>(a) % 256 == 0, "alignment");
    RankoneError error;
    check(backend().upload(device.stream(), a, from.data(), bytes, &error) == 0, "upload: %s", error.reason);
    std::fill(from.begin(), from.end(), 0);  // ours again at once
    check(backend().copy(device.stream(), b, a, bytes, &error) == 0, "copy: %s", error.reason);
    check(backend().download(device.stream(), to.data(), b, bytes, &error) == 0, "download: %s", error.reason);
    check(to == kept, "%zu bytes came back changed", bytes);
    check(backend().fill(device.stream(), b, 0x5a, bytes, &error) == 0, "fill: %s", error.reason);
    check(backend().download(device.stream(), to.data(), b, bytes, &error) == 0, "download: %s", error.reason);
    for (unsigned char x : to) check(x == 0x5a, "fill");
    release(device, a);
    release(device, b);
  }
}

TEST("stream: many small uploads, more than the staging holds at once") {
  Device device;
  constexpr int count = 6000;
  std::vector<void*> blocks;
  void* memory = allocate(device, count * 1024);
  RankoneError error;
  for (int i = 0; i < count; ++i) {
    const std::vector<int32_t> piece(256, i);
    check(backend().upload(device.stream(), static_cast<char*>(memory) + i * 1024, piece.data(), 1024, &error) == 0,
          "upload: %s", error.reason);
  }
  std::vector<int32_t> all(count * 256);
  check(backend().download(device.stream(), all.data(), memory, count * 1024, &error) == 0, "download: %s",
        error.reason);
  for (int i = 0; i < count * 256; ++i) check(all[i] == i / 256, "piece %d holds %d", i / 256, all[i]);
  release(device, memory);
}

TEST("stream: uploads of more than pinned memory may grow to") {
  Device device;
  constexpr int count = 9, elements = 5 << 19;  // 10 MB each
  void* memory = allocate(device, size_t{count} * elements * 4);
  RankoneError error;
  std::vector<int32_t> piece(elements);
  const auto at = [&](int i) { return static_cast<int32_t*>(memory) + static_cast<size_t>(i) * elements; };
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j < elements; ++j) piece[j] = i * elements + j;
    check(backend().upload(device.stream(), at(i), piece.data(), piece.size() * 4, &error) == 0, "upload: %s",
          error.reason);
  }
  for (int i = 0; i < count; ++i) {
    check(backend().download(device.stream(), piece.data(), at(i), piece.size() * 4, &error) == 0, "download: %s",
          error.reason);
    for (int j = 0; j < elements; ++j) check(piece[j] == i * elements + j, "piece %d, element %d: %d", i, j, piece[j]);
  }
  release(device, memory);
}

TEST("allocator: released memory serves the next request of about its size, and trim gives it back") {
  const Setting cached("RANKONE_CUDA_MEMORY", "cached");
  Device device;
  void* a = allocate(device, 1000);
  void* big = allocate(device, 3 << 20);
  check(used(device) >= 1000 + (3 << 20) && used(device) == reserved(device), "used");
  release(device, a);
  check(used(device) < (4 << 20) && reserved(device) > used(device), "kept");
  check(allocate(device, 900) == a, "a smaller request takes the block");
  void* other = allocate(device, 1000);
  check(other != a, "a block that is in use is not given out");
  release(device, a);
  release(device, other);
  release(device, big);
  check(used(device) == 0, "all released, %llu in use", static_cast<unsigned long long>(used(device)));
  void* small = allocate(device, 600);
  check(small == a || small == other, "a request of more than half takes a block");
  small = allocate(device, 100);
  check(small != a && small != other, "one of a tenth does not");
  check(allocate(device, 1 << 20) != big, "a block of three times the size is left alone");
  RankoneError error;
  check(backend().trim(device.stream(), &error) == 0, "trim: %s", error.reason);
  check(reserved(device) == used(device), "trim leaves %llu bytes",
        static_cast<unsigned long long>(reserved(device) - used(device)));
  release(device, nullptr);
}

TEST("allocator: steady work takes no more memory") {
  const Setting cached("RANKONE_CUDA_MEMORY", "cached");
  Device device;
  uint64_t after = 0;
  for (int round = 0; round < 200; ++round) {
    std::vector<void*> blocks;
    for (size_t bytes : {64, 700, 33000, 33001, 1 << 20, 2500000}) blocks.push_back(allocate(device, bytes));
    for (void* block : blocks) release(device, block);
    if (round == 0) after = reserved(device);
    check(reserved(device) == after, "round %d: %llu bytes, not %llu", round,
          static_cast<unsigned long long>(reserved(device)), static_cast<unsigned long long>(after));
  }
}

TEST("allocator: memory released while kernels use it serves later ones in order") {
  const Setting cached("RANKONE_CUDA_MEMORY", "cached");
  Device device;
  const Array ones({5000}, Values(5000, 1.0)), twos({5000}, Values(5000, 2.0));
  const DeviceArray sum(device, {5000}, DType::BF16);
  for (int round = 0; round < 20; ++round) {
    {
      const DeviceArray a(device, ones);
      convert(device, sum, a);
    }
    const DeviceArray b(device, twos);  // in a's memory, while the conversion may still wait
    const DeviceArray back(device, {5000}, DType::F32);
    convert(device, back, sum);
    const Array result = back.host();
    for (int i = 0; i < 5000; ++i) check(result.at(i) == 1, "element %d is %g", i, result.at(i));
  }
}

TEST("allocator: out of memory is an error with the size, after what other streams keep was given back") {
  const Setting cached("RANKONE_CUDA_MEMORY", "cached"), size("RANKONE_EMULATED_MEMORY", "1000000");
  Device first, second;
  if (!first.info().emulated) return;  // on a GPU this would take all memory from others
  const size_t most = first.info().freeBytes;
  void* half = allocate(first, most / 2 + 8192);
  RankoneError error;
  void* memory = nullptr;
  check(backend().allocate(second.stream(), most / 2, &memory, &error) == 2 && !memory, "too much was given");
  check(std::strstr(error.reason, "out of memory: ") && std::strstr(error.reason, "bytes"), "%s", error.reason);
  check(backend().allocate(second.stream(), SIZE_MAX - 5, &memory, &error) == 2, "more than there can be was given");
  release(first, half);
  check(reserved(first) > 0, "kept");
  memory = allocate(second, most / 2);
  check(reserved(first) == 0, "the other stream's cache was given back");
  release(second, memory);
}

TEST("events: waited for by another thread, and the time between two") {
  Device device;
  const Array ones({20000}, Values(20000, 1.0));
  const DeviceArray a(device, ones), b(device, {20000}, DType::F16);
  for (int round = 0; round < 3; ++round) {  // released events are used again
    RankoneEvent* start = record(device);
    for (int i = 0; i < 5; ++i) convert(device, b, a);
    RankoneEvent* end = record(device);
    RankoneError error;
    int code = -1;
    std::thread([&] { code = backend().wait(end, &error); }).join();
    check(code == 0, "wait: %s", error.reason);
    float milliseconds = -1;
    check(backend().elapsed(start, end, &milliseconds, &error) == 0, "elapsed: %s", error.reason);
    check(milliseconds > 0 && milliseconds < 1e7, "%g ms", milliseconds);
    backend().releaseEvent(start);
    backend().releaseEvent(end);
  }
  backend().releaseEvent(nullptr);
}

TEST("graphs: recorded work is done at every launch, with the data of the recording") {
  for (const char* mode : {"cached", "poisoned", "direct"}) {
    const Setting memory("RANKONE_CUDA_MEMORY", mode);
    Device device;
    const DeviceArray from(device, Array({700}, Values(700, 3.0))), to(device, {700}, DType::BF16),
        third(device, {700}, DType::F32);
    convert(device, to, from);
    convert(device, third, to);
    device.synchronize();
    RankoneError error;
    check(backend().beginCapture(device.stream(), &error) == 0, "beginCapture: %s", error.reason);
    Array seven({700}, Values(700, 7.0));
    {
      DeviceArray scratch(device, Shape{700}, DType::F32);  // the graph's own from here on
      scratch.upload(seven);
      convert(device, to, scratch);
    }
    for (int64_t i = 0; i < 700; ++i) seven.set(i, 8);
    convert(device, third, to);
    RankoneGraph* graph = nullptr;
    check(backend().endCapture(device.stream(), &graph, &error) == 0, "endCapture: %s", error.reason);
    check(third.host().at(5) == 3, "recording did the work");
    const DeviceArray bystander(device, Array({700}, Values(700, 9.0)));
    const DeviceArray much(device, Array({5 << 18}, Values(5 << 18, 4.0)));  // through all of the staging
    for (int round = 0; round < 3; ++round) {
      convert(device, to, from);
      check(backend().launchGraph(graph, &error) == 0, "launchGraph: %s", error.reason);
      const Array result = third.host();
      for (int64_t i = 0; i < 700; ++i) check(result.at(i) == 7, "element %d is %g", static_cast<int>(i), result.at(i));
    }
    check(bystander.host().at(3) == 9, "the graph wrote to memory of somebody else");
    backend().releaseGraph(graph);
  }
}

TEST("peaks: counted operations, and wgmma where there is none is an error") {
  for (const char* capability : {"80", "90"}) {
    const Setting setting("RANKONE_EMULATED_CAPABILITY", capability);
    Device device;
    RankoneError error;
    double operations = 0;
    check(backend().peak(device.stream(), RANKONE_PEAK_MMA, 3, &operations, &error) == 0, "mma: %s", error.reason);
    check(operations == device.info().multiprocessors * 2.0 * 3 * 8 * 8 * 4096, "%g operations", operations);
    const int code = backend().peak(device.stream(), RANKONE_PEAK_WGMMA, 2, &operations, &error);
    if (device.info().major == 9) {
      check(code == 0, "wgmma: %s", error.reason);
      check(operations == device.info().multiprocessors * 2.0 * 2 * 4 * 524288, "%g operations", operations);
    } else {
      check(code != 0 && std::strstr(error.reason, "9.0"), "wgmma: %s", error.reason);
    }
    device.synchronize();
  }
}

TEST("streams: two of them, and two devices where there are two, each with its own memory") {
  RankoneError error;
  int32_t count = 0;
  check(backend().deviceCount(&count, &error) == 0, "deviceCount: %s", error.reason);
  const int other = count > 1 ? 1 : 0;
  Device first(0), second(other);
  const Array ones({3000}, Values(3000, 1.0)), twos({3000}, Values(3000, 2.0));
  const auto work = [](Device& device, const Array& values, double expected) {
    for (int i = 0; i < 10; ++i) {
      const DeviceArray a(device, values), b(device, values.shape(), DType::F16), c(device, values.shape());
      convert(device, b, a);
      convert(device, c, b);
      check(c.host().at(2999) == expected, "another stream's values");
    }
  };
  std::string failure;
  std::thread thread([&] {
    try {
      work(first, ones, 1);
    } catch (const std::exception& e) {
      failure = e.what();
    }
  });
  work(second, twos, 2);
  thread.join();
  check(failure.empty(), "%s", failure.c_str());
}

TEST("streams: closing one frees what it still holds") {
  const Setting cached("RANKONE_CUDA_MEMORY", "cached");
  RankoneDeviceInfo before, after;
  RankoneError error;
  backend().deviceInfo(0, &before, &error);
  for (int i = 0; i < 3; ++i) {
    Device device;
    allocate(device, 8 << 20);
    release(device, allocate(device, 4 << 20));
  }
  backend().deviceInfo(0, &after, &error);
  if (before.emulated) check(after.freeBytes == before.freeBytes, "memory is lost");
}

}  // namespace
}  // namespace rankone::test
