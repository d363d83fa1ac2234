// Timing of the CUDA library through its table: device memory, medians by CUDA events, and what a case is held against.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "backend.h"

namespace rankone::bench {

const RankoneCuda& backend();
// Throws std::runtime_error where a call of the table failed.
void expectDone(int code, const RankoneError& error, const char* what);

struct Options {
  bool tiny = false;   // sizes for the emulator: that it runs, not how fast
  double seconds = 1;  // for each case
  std::string json;    // file, or none
  std::vector<std::string> patterns;
};

// Bytes and operations a call cannot do without.
struct Work {
  double bytes = 0, operations = 0;
};

struct Result {
  std::string name, note;
  double milliseconds = 0, least = 0;
  int repetitions = 0;
  Work work;
  double ratio = 0;  // to the case that `note` names; 0: none
};

class Bench {
 public:
  explicit Bench(const Options& options);
  ~Bench();
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  RankoneStream* stream() const { return stream_; }
  const RankoneDeviceInfo& info() const { return info_; }
  bool tiny() const { return options_.tiny; }
  bool wanted(const std::string& name) const;

  // Memory that lives until releaseAll(): random numbers, uniform in [low, high), in a dtype; zeros; host data.
  RankoneFloats random(int64_t count, double low, double high, int32_t dtype = RANKONE_BF16);
  void* bytes(size_t size, bool random);
  void* upload(const void* data, size_t size);
  float* f32(int64_t count) { return static_cast<float*>(bytes(static_cast<size_t>(count) * 4, false)); }
  void releaseAll();

  // So many sets of arguments that the caches hold none of one when its turn comes.
  int sets(double bytesOfOne) const;

  // The median over many calls, call i with arguments of set i % sets. With `graph` the call is recorded once for each
  // set and launched.
  double time(Result result, int sets, bool graph, const std::function<void(int set)>& call);
  // Fails where the output holds what is not finite.
  void expectFinite(const char* name, const void* data, int64_t count, int32_t dtype);

  // The device's own limits, measured now.
  void measurePeaks();
  void write() const;  // the JSON

  const std::vector<Result>& results() const { return results_; }

 private:
  struct Pool {
    int32_t dtype;
    double low, high;
    std::vector<char> data;
  };
  float elapsed(RankoneEvent* start, RankoneEvent* end);
  void show(const Result& result) const;

  Options options_;
  RankoneStream* stream_ = nullptr;
  RankoneDeviceInfo info_ = {};
  std::vector<void*> memory_;
  std::vector<Pool> pools_;
  std::vector<Result> results_;
  double copyBytesPerSecond_ = 0, mmaPerSecond_ = 0, wgmmaPerSecond_ = 0;
};

void recurrenceCases(Bench& bench);
void loraCases(Bench& bench);

}  // namespace rankone::bench
