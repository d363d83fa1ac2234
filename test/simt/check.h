// Tests of kernels, as one program for the emulator (g++) or for a GPU (nvcc):
//
//   #include "simt/check.h"     // first: the kernels' header includes simt/simt.cuh itself, last
//   TEST("name") { DeviceArray<float> x(values); ...; EXPECT_NEAR(x.host()[0], 1.0, 1e-6); }
//
// Every file of tests is a program of its own, with main() in this header; its arguments pick tests by part of their
// names, `--seed N` sets the emulator's schedule. Under the emulator a test also fails when a launch left a finding.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "simt/simt.cuh"

namespace simt::check {

struct Test {
  const char* name;
  void (*body)();
};
inline std::vector<Test>& tests() {
  static std::vector<Test> list;
  return list;
}
struct Register {
  Register(const char* name, void (*body)()) { tests().push_back({name, body}); }
};
inline int failures = 0;

inline void fail(const char* file, int line, const std::string& text) {
  // The first ones tell enough.
  if (++failures <= 10) std::printf("    %s:%d: %s\n", file, line, text.c_str());
}

inline std::string show(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", x);
  return text;
}

// Memory of the device, with copies to and from the host.
template <class T>
class DeviceArray {
 public:
  // All bits set: NaNs. The emulator reports reads before the first write.
  explicit DeviceArray(size_t count) : count_(count) { create(nullptr); }
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) { create(values.data()); }
  ~DeviceArray() { destroy(); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  size_t size() const { return count_; }

#if defined(__CUDACC__)
  std::vector<T> host() const {
    std::vector<T> values(count_);
    require(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  void set(const std::vector<T>& values) {
    require(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }

 private:
  static void require(cudaError_t status) {
    if (status == cudaSuccess) return;
    std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(status));
    std::exit(2);
  }
  void create(const T* values) {
    require(cudaMalloc(reinterpret_cast<void**>(&data_), count_ ? count_ * sizeof(T) : 1));
    require(values ? cudaMemcpy(data_, values, count_ * sizeof(T), cudaMemcpyHostToDevice)
                   : cudaMemset(data_, 0xff, count_ * sizeof(T)));
  }
  void destroy() { cudaFree(data_); }
#else
  std::vector<T> host() const { return std::vector<T>(data_, data_ + count_); }
  void set(const std::vector<T>& values) {
    if (count_) std::memcpy(data_, values.data(), count_ * sizeof(T));
    emulator::markInitialised(data_, count_ * sizeof(T));
  }

 private:
  void create(const T* values) {
    data_ = static_cast<T*>(emulator::allocate(count_ * sizeof(T), values != nullptr));
    if (values && count_) std::memcpy(data_, values, count_ * sizeof(T));
  }
  void destroy() { emulator::free(data_); }
#endif
  T* data_ = nullptr;
  size_t count_;
};

inline Status synchronize() {
#if defined(__CUDACC__)
  return cudaDeviceSynchronize();
#else
  return 0;
#endif
}

// 80, 90, ...; the emulator is a Hopper.
inline int capability() {
#if defined(__CUDACC__)
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return major * 10 + minor;
#else
  return 90;
#endif
}

inline int run(int argc, char** argv) {
#if !defined(__CUDACC__)
  emulator::options.quiet = true;  // findings are failures of their test
#endif
  std::vector<std::string> patterns;
  for (int i = 1; i < argc; ++i) {
#if !defined(__CUDACC__)
    if (std::string(argv[i]) == "--seed" && i + 1 < argc) {
      emulator::options.seed = static_cast<unsigned>(std::atol(argv[++i]));
      continue;
    }
#endif
    patterns.push_back(argv[i]);
  }
  int passed = 0, failed = 0;
  for (const Test& test : tests()) {
    bool chosen = patterns.empty();
    for (const std::string& pattern : patterns) chosen = chosen || std::strstr(test.name, pattern.c_str());
    if (!chosen) continue;
    failures = 0;
    test.body();
    const Status status = synchronize();
    if (status) fail(test.name, 0, statusText(status));
#if !defined(__CUDACC__)
    for (const emulator::Finding& finding : emulator::report().findings) fail(test.name, 0, finding.text);
#endif
    std::printf("%s %s\n", failures ? "FAIL" : "ok  ", test.name);
    std::fflush(stdout);
    (failures ? failed : passed)++;
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}

}  // namespace simt::check

using simt::check::DeviceArray;

#define CHECK_NAME_(a, b) a##b
#define CHECK_NAME(a, b) CHECK_NAME_(a, b)
#define TEST(name)                                                                                         \
  static void CHECK_NAME(test_, __LINE__)();                                                               \
  static const ::simt::check::Register CHECK_NAME(register_, __LINE__)(name, CHECK_NAME(test_, __LINE__)); \
  static void CHECK_NAME(test_, __LINE__)()

#define EXPECT(condition)                                                  \
  do {                                                                     \
    if (!(condition)) ::simt::check::fail(__FILE__, __LINE__, #condition); \
  } while (0)
#define EXPECT_EQ(actual, expected)                                                                       \
  do {                                                                                                    \
    const auto actual_ = (actual);                                                                        \
    const auto expected_ = (expected);                                                                    \
    if (!(actual_ == expected_))                                                                          \
      ::simt::check::fail(__FILE__, __LINE__,                                                             \
                          #actual " is " + ::simt::check::show(static_cast<double>(actual_)) + ", not " + \
                              ::simt::check::show(static_cast<double>(expected_)));                       \
  } while (0)
// |actual - expected| <= limit; fails for NaN.
#define EXPECT_NEAR(actual, expected, limit)                                                                          \
  do {                                                                                                                \
    const double actual_ = (actual), expected_ = (expected), limit_ = (limit);                                        \
    if (!(std::fabs(actual_ - expected_) <= limit_))                                                                  \
      ::simt::check::fail(__FILE__, __LINE__,                                                                         \
                          #actual " is " + ::simt::check::show(actual_) + ", not " + ::simt::check::show(expected_) + \
                              " within " + ::simt::check::show(limit_));                                              \
  } while (0)
// A launch that is to succeed.
#define EXPECT_OK(call)                                                                                          \
  do {                                                                                                           \
    const ::simt::Status status_ = (call);                                                                       \
    if (status_) ::simt::check::fail(__FILE__, __LINE__, #call ": " + std::string(::simt::statusText(status_))); \
  } while (0)

int main(int argc, char** argv) { return simt::check::run(argc, argv); }
