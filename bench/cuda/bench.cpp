#include "bench.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "simt/arithmetic.h"

namespace rankone::bench {
namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

RankoneEvent* record(RankoneStream* stream) {
  RankoneError error;
  RankoneEvent* event = nullptr;
  expectDone(backend().record(stream, &event, &error), error, "record");
  return event;
}

void synchronize(RankoneStream* stream) {
  RankoneError error;
  expectDone(backend().synchronize(stream, &error), error, "synchronize");
}

}  // namespace

const RankoneCuda& backend() {
  static const RankoneCuda* table = [] {
    const char* path = std::getenv("RANKONE_CUDA_PATH");
    void* library = dlopen(path ? path : "./rankone_cuda.so", RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    const auto entry = reinterpret_cast<decltype(&rankoneCuda)>(dlsym(library, "rankoneCuda"));
    const RankoneCuda* found = entry ? entry(RANKONE_CUDA_VERSION) : nullptr;
    if (!found) throw std::runtime_error("RANKONE_CUDA_PATH: not this version of the library");
    return found;
  }();
  return *table;
}

void expectDone(int code, const RankoneError& error, const char* what) {
  if (code) throw std::runtime_error(std::string(what) + ": " + error.reason);
}

Bench::Bench(const Options& options) : options_(options) {
  RankoneError error;
  expectDone(backend().deviceInfo(0, &info_, &error), error, "deviceInfo");
  expectDone(backend().openStream(0, &stream_, &error), error, "openStream");
  std::printf("%s, compute capability %d.%d, %d multiprocessors, %.0f MiB of L2\n", info_.name, info_.major,
              info_.minor, info_.multiprocessors, static_cast<double>(info_.l2Bytes) / 1048576);
}

Bench::~Bench() { backend().closeStream(stream_); }

bool Bench::wanted(const std::string& name) const {
  if (options_.patterns.empty()) return true;
  return std::any_of(options_.patterns.begin(), options_.patterns.end(),
                     [&](const std::string& p) { return name.find(p) != std::string::npos; });
}

void* Bench::bytes(size_t size, bool random) {
  RankoneError error;
  void* memory = nullptr;
  expectDone(backend().allocate(stream_, size, &memory, &error), error, "allocate");
  memory_.push_back(memory);
  if (random) {
    const RankoneFloats source = this->random(static_cast<int64_t>(size / 4 + 1), -1, 1, RANKONE_F32);
    expectDone(backend().copy(stream_, memory, source.data, size, &error), error, "copy");
  } else {
    expectDone(backend().fill(stream_, memory, 0, size, &error), error, "fill");
  }
  return memory;
}

void* Bench::upload(const void* data, size_t size) {
  void* memory = bytes(size, false);
  RankoneError error;
  expectDone(backend().upload(stream_, memory, data, size, &error), error, "upload");
  return memory;
}

// One megabyte of numbers, repeated from a place of its own for each tensor.
RankoneFloats Bench::random(int64_t count, double low, double high, int32_t dtype) {
  constexpr int64_t kPool = 1 << 18;
  const int64_t width = dtype == RANKONE_F32 ? 4 : 2;
  auto pool = std::find_if(pools_.begin(), pools_.end(),
                           [&](const Pool& p) { return p.dtype == dtype && p.low == low && p.high == high; });
  if (pool == pools_.end()) {
    std::vector<char> data(kPool * width);
    uint64_t state = 88172645463325252u;
    for (int64_t i = 0; i < kPool; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      const float x = static_cast<float>(low + (high - low) * static_cast<double>(state >> 11) * 0x1p-53);
      const uint32_t bits = dtype == RANKONE_F32    ? simt::f32_bits(x)
                            : dtype == RANKONE_BF16 ? simt::f32_to_bf16(x)
                                                    : simt::f32_to_f16(x);
      std::memcpy(&data[i * width], &bits, width);
    }
    pool = pools_.insert(pools_.end(), {dtype, low, high, std::move(data)});
  }
  RankoneError error;
  void* memory = nullptr;
  expectDone(backend().allocate(stream_, static_cast<size_t>(count * width), &memory, &error), error, "allocate");
  const int64_t first = static_cast<int64_t>(memory_.size()) * 104729 % kPool;
  memory_.push_back(memory);
  for (int64_t done = 0; done < count;) {
    const int64_t at = (first + done) % kPool, part = std::min(count - done, kPool - at);
    expectDone(backend().upload(stream_, static_cast<char*>(memory) + done * width, &pool->data[at * width],
                                static_cast<size_t>(part * width), &error),
               error, "upload");
    done += part;
  }
  return {memory, dtype};
}

void Bench::releaseAll() {
  synchronize(stream_);
  for (void* memory : memory_) backend().release(stream_, memory);
  memory_.clear();
  RankoneError error;
  expectDone(backend().trim(stream_, &error), error, "trim");
}

int Bench::sets(double bytesOfOne) const {
  if (options_.tiny) return 2;
  const double all = std::max(3.0 * static_cast<double>(info_.l2Bytes), 2e8);
  return static_cast<int>(std::clamp(std::ceil(all / std::max(bytesOfOne, 1.0)), 2.0, 64.0));
}

float Bench::elapsed(RankoneEvent* start, RankoneEvent* end) {
  RankoneError error;
  float milliseconds = 0;
  expectDone(backend().wait(end, &error), error, "wait");
  expectDone(backend().elapsed(start, end, &milliseconds, &error), error, "elapsed");
  backend().releaseEvent(start);
  backend().releaseEvent(end);
  return milliseconds;
}

double Bench::time(Result result, int sets, bool graph, const std::function<void(int set)>& call) {
  RankoneError error;
  for (int i = 0; i < sets; ++i) call(i);
  synchronize(stream_);
  std::vector<RankoneGraph*> graphs;
  for (int i = 0; graph && i < sets; ++i) {
    RankoneGraph* recorded = nullptr;
    expectDone(backend().beginCapture(stream_, &error), error, "beginCapture");
    call(i);
    expectDone(backend().endCapture(stream_, &recorded, &error), error, "endCapture");
    graphs.push_back(recorded);
  }
  const auto once = [&](int i) {
    if (!graph) return call(i % sets);
    expectDone(backend().launchGraph(graphs[i % sets], &error), error, "launchGraph");
  };
  once(0);
  synchronize(stream_);
  const auto started = Clock::now();
  std::vector<double> times;
  // Rounds of many calls, so that the device never waits for the host between two of them.
  for (int done = 0;
       times.size() < 5 || std::chrono::duration<double>(Clock::now() - started).count() < options_.seconds;) {
    const int round = options_.tiny ? 3 : 20;
    std::vector<RankoneEvent*> events = {record(stream_)};
    for (int i = 0; i < round; ++i) {
      once(done++);
      events.push_back(record(stream_));
    }
    synchronize(stream_);
    for (int i = 0; i < round; ++i) {
      float milliseconds = 0;
      expectDone(backend().elapsed(events[i], events[i + 1], &milliseconds, &error), error, "elapsed");
      if (i > 0 || options_.tiny) times.push_back(milliseconds);  // the first waits for the host
    }
    for (RankoneEvent* event : events) backend().releaseEvent(event);
    if (options_.tiny) break;
  }
  for (RankoneGraph* recorded : graphs) backend().releaseGraph(recorded);
  result.milliseconds = median(times);
  result.least = *std::min_element(times.begin(), times.end());
  result.repetitions = static_cast<int>(times.size());
  if (result.ratio > 0) result.ratio = result.milliseconds / result.ratio;
  show(result);
  results_.push_back(result);
  return result.milliseconds;
}

void Bench::expectFinite(const char* name, const void* data, int64_t count, int32_t dtype) {
  RankoneError error;
  const int64_t part = std::min<int64_t>(count, 1 << 20), width = dtype == RANKONE_F32 ? 4 : 2;
  std::vector<char> host(part * width);
  for (const int64_t first : {int64_t{0}, count - part}) {
    expectDone(
        backend().download(stream_, host.data(), static_cast<const char*>(data) + first * width, host.size(), &error),
        error, name);
    for (int64_t i = 0; i < part; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, &host[i * width], width);
      const float x = dtype == RANKONE_F32    ? simt::f32_from_bits(bits)
                      : dtype == RANKONE_BF16 ? simt::bf16_to_f32(static_cast<uint16_t>(bits))
                                              : simt::f16_to_f32(static_cast<uint16_t>(bits));
      if (!std::isfinite(x)) throw std::runtime_error(std::string(name) + ": an output that is not finite");
    }
  }
}

void Bench::measurePeaks() {
  RankoneError error;
  const size_t size = options_.tiny ? 1 << 16 : size_t{1} << 30;
  void* from = bytes(size, false);
  void* to = bytes(size, false);
  const auto best = [&](const std::function<void()>& call) {
    double least = 1e30;
    for (int i = 0; i < (options_.tiny ? 2 : 8); ++i) {
      RankoneEvent* start = record(stream_);
      call();
      least = std::min(least, static_cast<double>(elapsed(start, record(stream_))));
    }
    return least / 1e3;
  };
  copyBytesPerSecond_ = 2.0 * static_cast<double>(size) /
                        best([&] { expectDone(backend().copy(stream_, to, from, size, &error), error, "copy"); });
  double operations = 0;
  const int64_t iterations = options_.tiny ? 2 : 20000;
  const auto rate = [&](bool wide) {
    const double seconds = best([&] {
      expectDone(backend().peak(stream_, wide ? RANKONE_PEAK_WGMMA : RANKONE_PEAK_MMA, iterations, &operations, &error),
                 error, "peak");
    });
    return operations / seconds;
  };
  mmaPerSecond_ = rate(false);
  if (info_.major == 9) wgmmaPerSecond_ = rate(true);
  std::printf("copy %.0f GB/s, mma.sync %.1f TF/s, wgmma %.1f TF/s\n\n", copyBytesPerSecond_ / 1e9,
              mmaPerSecond_ / 1e12, wgmmaPerSecond_ / 1e12);
  std::printf("%-58s %10s %10s %8s %8s %8s\n", "case", "ms", "least", "% bytes", "% flops", "ratio");
  releaseAll();
}

void Bench::show(const Result& r) const {
  const double seconds = r.milliseconds / 1e3, peak = std::max(mmaPerSecond_, wgmmaPerSecond_);
  std::printf("%-58s %10.4f %10.4f %8.1f %8.1f ", r.name.c_str(), r.milliseconds, r.least,
              100 * r.work.bytes / seconds / copyBytesPerSecond_, 100 * r.work.operations / seconds / peak);
  if (r.ratio > 0) {
    std::printf("%8.3f of %s\n", r.ratio, r.note.c_str());
  } else {
    std::printf("%8s %s\n", "", r.note.c_str());
  }
  std::fflush(stdout);
}

void Bench::write() const {
  if (options_.json.empty()) return;
  std::FILE* file = std::fopen(options_.json.c_str(), "w");
  if (!file) throw std::runtime_error(options_.json + ": cannot be written");
  std::fprintf(file,
               "{\n  \"device\": \"%s\",\n  \"capability\": \"%d.%d\",\n  \"multiprocessors\": %d,\n  \"emulated\": "
               "%s,\n  \"copyGBPerSecond\": %.1f,\n  \"mmaTFPerSecond\": %.2f,\n  \"wgmmaTFPerSecond\": %.2f,\n  "
               "\"cases\": [",
               info_.name, info_.major, info_.minor, info_.multiprocessors, info_.emulated ? "true" : "false",
               copyBytesPerSecond_ / 1e9, mmaPerSecond_ / 1e12, wgmmaPerSecond_ / 1e12);
  for (size_t i = 0; i < results_.size(); ++i) {
    const Result& r = results_[i];
    std::fprintf(
        file,
        "%s\n    { \"name\": \"%s\", \"note\": \"%s\", \"milliseconds\": %.6g, \"least\": %.6g, \"calls\": %d, "
        "\"bytes\": %.0f, \"operations\": %.0f, \"ratio\": %.6g }",
        i ? "," : "", r.name.c_str(), r.note.c_str(), r.milliseconds, r.least, r.repetitions, r.work.bytes,
        r.work.operations, r.ratio);
  }
  std::fprintf(file, "\n  ]\n}\n");
  std::fclose(file);
}

}  // namespace rankone::bench
