// The emulator's host side: launches, memory, statistics, schedules.

#include <set>
#include <thread>

#include "simt/check.h"
#include "simt/simt.cuh"

using namespace simt;

namespace {

__global__ void fills(uint32_t* out) {
  auto& s = shared<uint32_t[64]>();
  const int t = threadIdx.x;
  s[t] = blockIdx.x * 1000 + blockIdx.y * 100 + blockIdx.z * 10000 + threadIdx.y;
  syncthreads();
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  if (threadIdx.y == 0) out[block * 32 + t] = s[t ^ 1] + blockDim.y;
}

TEST("indices, and the same results by one thread of the host and by many") {
  std::vector<std::vector<uint32_t>> results;
  for (const int threads : {1, 3, 8}) {
    for (const unsigned seed : {0u, 5u}) {
      emulator::options.threads = threads;
      emulator::options.seed = seed;
      DeviceArray<uint32_t> out(2 * 3 * 5 * 32);
      EXPECT_OK(launch(fills, dim3(5, 3, 2), dim3(32, 1), sizeof(uint32_t[64]), nullptr, out.data()));
      results.push_back(out.host());
    }
  }
  emulator::options.threads = 0;
  emulator::options.seed = 0;
  for (const auto& result : results) EXPECT(result == results[0]);
  EXPECT_EQ(results[0][((1 * 3 + 2) * 5 + 4) * 32 + 7], 4000u + 200u + 10000u + 1u);
}

__global__ void nothing() {}

TEST("launches that a GPU refuses") {
  EXPECT(launch(nothing, dim3(0), dim3(32), 0, nullptr) != 0);
  EXPECT(launch(nothing, dim3(1), dim3(1025), 0, nullptr) != 0);
  EXPECT(launch(nothing, dim3(1, 65536), dim3(32), 0, nullptr) != 0);
  EXPECT(launch(nothing, dim3(1), dim3(32), (227 << 10) + 1, nullptr) != 0);
  EXPECT_OK(launch(nothing, dim3(1), dim3(32), 227 << 10, nullptr));
  EXPECT(emulator::report().of(nothing).launches == 1);
}

TEST("memory is aligned, kept apart, and used again") {
  std::vector<void*> pointers;
  std::set<void*> first;
  for (const size_t bytes : {1u, 100u, 256u, 5000u, 0u, 64u}) {
    pointers.push_back(emulator::allocate(bytes, false));
    first.insert(pointers.back());
    EXPECT_EQ(reinterpret_cast<size_t>(pointers.back()) % 256, size_t(0));
    std::memset(pointers.back(), 1, bytes);
  }
  EXPECT_EQ(first.size(), pointers.size());
  for (void* p : pointers) emulator::free(p);
  void* again = emulator::allocate(100, false);
  EXPECT(first.count(again) == 1);
  EXPECT_EQ(static_cast<uint32_t*>(again)[0], 0xffffffffu);
  emulator::free(again);
}

__global__ void strided(float* out, int stride) {
  auto& s = shared<float[32 * 33]>();
  const int t = threadIdx.x;
  for (int i = 0; i < 32; ++i) s[i * stride + t] = i;
  syncwarp();
  float sum = 0;
  for (int i = 0; i < 32; ++i) sum += s[t * stride + i];
  out[t] = sum;
}

TEST("bank conflicts are counted") {
  if (!emulator::instrumented) return;
  emulator::report();
  DeviceArray<float> out(32);
  EXPECT_OK(launch(strided, dim3(1), dim3(32), sizeof(float[32 * 33]), nullptr, out.data(), 32));
  const emulator::Statistics bad = emulator::report().of(strided);
  EXPECT_EQ(bad.sharedAccesses, 64);
  EXPECT_EQ(bad.wavefronts, 32 + 32 * 32);
  EXPECT_EQ(bad.idealWavefronts, 64);
  EXPECT_EQ(bad.globalAccesses, 1);
  EXPECT_EQ(bad.storeSectors, 4);
  EXPECT(emulator::lines().find("32.00 of the ideal  code at host_test.cpp:") != std::string::npos);
  EXPECT_OK(launch(strided, dim3(1), dim3(32), sizeof(float[32 * 33]), nullptr, out.data(), 33));
  EXPECT_EQ(emulator::report().of(strided).wavefronts, 64);
}

__global__ void reads(const float* in, float* out, int stride) { out[threadIdx.x] = in[threadIdx.x * stride]; }

TEST("sectors are counted") {
  if (!emulator::instrumented) return;
  emulator::report();
  DeviceArray<float> in(std::vector<float>(1024, 1.f)), out(32);
  EXPECT_OK(launch(reads, dim3(1), dim3(32), 0, nullptr, in.data(), out.data(), 8));
  const emulator::Statistics wide = emulator::report().of(reads);
  EXPECT_EQ(wide.loadSectors, 32);
  EXPECT_EQ(wide.storeSectors, 4);
  EXPECT_EQ(wide.idealSectors, 8);
  EXPECT_OK(launch(reads, dim3(1), dim3(32), 0, nullptr, in.data(), out.data(), 1));
  EXPECT_EQ(emulator::report().of(reads).loadSectors, 4);
}

__global__ void multiplies(float* out) {
  float d[4] = {};
  const uint32_t a[4] = {};
  for (int i = 0; i < 3; ++i) mma_bf16(d, a, 0, 0);
  d[0] += shfl_xor(d[1], 1);
  syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = d[0];
}

TEST("instructions are counted by kernel") {
  emulator::report();
  DeviceArray<float> out(128);
  EXPECT_OK(launch(multiplies, dim3(2), dim3(64), 0, nullptr, out.data()));
  EXPECT_OK(launch(multiplies, dim3(1), dim3(64), 0, nullptr, out.data()));
  const emulator::Report report = emulator::report();
  const emulator::Statistics statistics = report.of(multiplies);
  EXPECT_EQ(statistics.launches, 2);
  EXPECT_EQ(statistics.blocks, 3);
  EXPECT_EQ(statistics.mma, 3 * 3 * 2);
  EXPECT_EQ(statistics.shuffles, 3 * 2);
  EXPECT_EQ(statistics.barriers, 3 * 2);
  EXPECT_EQ(report.of(nothing).launches, 0);
}

__global__ void adds(uint32_t* x) { x[threadIdx.x] += 1; }

TEST("launches and allocations by several threads of the host") {
  std::vector<std::thread> hosts;
  std::vector<uint32_t> sums(4);
  for (size_t h = 0; h < sums.size(); ++h) {
    hosts.emplace_back([&sums, h] {
      for (int i = 0; i < 20; ++i) {
        auto* x = static_cast<uint32_t*>(emulator::allocate(32 * 4, false));
        std::memset(x, 0, 32 * 4);
        emulator::markInitialised(x, 32 * 4);
        sums[h] += static_cast<uint32_t>(launch(adds, dim3(1), dim3(32), 0, nullptr, x));
        sums[h] += x[31];
        emulator::free(x);
      }
    });
  }
  for (std::thread& host : hosts) host.join();
  for (const uint32_t sum : sums) EXPECT_EQ(sum, 20u);
}

// Blocks wait in a chain for the one with the next number: all of them are alive at once.
__global__ void chain(uint32_t* counter, uint32_t* out) {
  const uint32_t turn = gridDim.x - 1 - blockIdx.x;
  if (threadIdx.x == 0) {
    while (load_acquire(counter) != turn) {
    }
  }
  syncthreads();
  out[blockIdx.x * 32 + threadIdx.x] = turn;
  syncthreads();
  if (threadIdx.x == 0) add_release(counter, 1);
}

TEST("blocks that wait for later blocks, by one thread of the host and by many") {
  for (const int threads : {1, 4}) {
    emulator::options.threads = threads;
    DeviceArray<uint32_t> counter(std::vector<uint32_t>(1, 0)), out(40 * 32);
    EXPECT_OK(launch_as(Launch::CORESIDENT, chain, dim3(40), dim3(32), 0, nullptr, counter.data(), out.data()));
    EXPECT_EQ(out.host()[39 * 32], 0u);
    EXPECT_EQ(out.host()[31], 39u);
  }
  emulator::options.threads = 0;
}

}  // namespace
