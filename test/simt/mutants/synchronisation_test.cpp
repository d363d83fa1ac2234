// Barriers and collectives that part of the threads do not come to, or come to in the wrong way.

#include "simt/mutants/caught.h"
#include "simt/simt.cuh"

using namespace simt;
using namespace mutants;

namespace {

__global__ void halfComes(float* out, bool fault) {
  const int t = threadIdx.x;
  if (!fault || t < 32) syncthreads();
  if (fault && t >= 32) bar_sync(1, 64);
  out[t] = t;
}

TEST("a barrier that half of the threads wait at forever") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION,
               {"no thread can go on", "threads 0-31 wait in syncthreads at synchronisation_test.cpp:",
                "threads 32-63 wait in bar_sync at synchronisation_test.cpp:", "block (0, 0, 0)"},
               [](bool fault) {
                 DeviceArray<float> out(64);
                 const Status status = launch(halfComes, dim3(1), dim3(64), 0, nullptr, out.data(), fault);
                 EXPECT_EQ(status, fault ? 702 : 0);
               });
}

__global__ void someEnd(float* out, int left) {
  auto& s = shared<float[64]>();
  const int t = threadIdx.x;
  s[t] = t;
  if (t >= left) return;
  syncthreads();
  out[t] = s[t ^ 1];
}

TEST("threads that have ended are not waited for") {
  DeviceArray<float> out(64);
  EXPECT_OK(launch(someEnd, dim3(1), dim3(64), sizeof(float[64]), nullptr, out.data(), 32));
  EXPECT_EQ(out.host()[0], 1.f);
}

__global__ void branches(float* out, bool fault) {
  const int t = threadIdx.x;
  if (fault && t < 16) {
    syncthreads();
  } else {
    syncthreads();
  }
  out[t] = t;
}

TEST("lanes of a warp at different barriers") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"from different places"}, [](bool fault) {
    DeviceArray<float> out(64);
    launch(branches, dim3(1), dim3(64), 0, nullptr, out.data(), fault);
  });
}

__global__ void counts(float* out, bool fault) {
  bar_sync(3, fault && threadIdx.x >= 32 ? 96 : 64);
  out[threadIdx.x] = 1;
}

TEST("a named barrier with two counts") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"different numbers of threads"}, [](bool fault) {
    DeviceArray<float> out(64);
    launch(counts, dim3(1), dim3(64), 0, nullptr, out.data(), fault);
  });
}

__global__ void someLanes(float* out, bool fault) {
  float v = threadIdx.x;
  if (!fault || threadIdx.x < 20) v += shfl_xor(v, 1);
  syncwarp();
  out[threadIdx.x] = v;
}

TEST("a shuffle by some of the lanes") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"threads 0-19 wait in shfl", "threads 20-31 wait in syncwarp"},
               [](bool fault) {
                 DeviceArray<float> out(32);
                 launch(someLanes, dim3(1), dim3(32), 0, nullptr, out.data(), fault);
               });
}

__global__ void multiplies(float* out, bool fault) {
  if (fault && threadIdx.x >= 24) return;
  float d[4] = {};
  const uint32_t a[4] = {};
  mma_bf16(d, a, 0, 0);
  out[threadIdx.x] = d[0];
}

TEST("mma by a warp some of whose lanes have ended") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {}, [](bool fault) {
    DeviceArray<float> out(32);
    launch(multiplies, dim3(1), dim3(32), 0, nullptr, out.data(), fault);
  });
}

__global__ void diverges(float* out, bool fault) {
  float d[4] = {};
  const uint32_t a[4] = {};
  if (fault && threadIdx.x < 8) {
    mma_bf16(d, a, 0, 0);
  } else {
    mma_bf16(d, a, 0, 0);
  }
  out[threadIdx.x] = d[0];
}

TEST("lanes of a warp at different products") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"threads 0-7 wait in mma", "threads 8-31 wait in mma"},
               [](bool fault) {
                 DeviceArray<float> out(32);
                 launch(diverges, dim3(1), dim3(32), 0, nullptr, out.data(), fault);
               });
}

__global__ void waitsForNobody(uint32_t* counter, uint32_t wanted) {
  if (threadIdx.x == 0) {
    add_release(counter, 1);
    while (load_acquire(counter) < wanted) sleep(32);
  }
  syncthreads();
}

TEST("a counter that never gets there") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION,
               {"threads 0 poll in", "threads 1-31 wait in syncthreads", "block (1, 0, 0)"}, [](bool fault) {
                 DeviceArray<uint32_t> counter(std::vector<uint32_t>(1, 0));
                 launch(waitsForNobody, dim3(3), dim3(32), 0, nullptr, counter.data(), fault ? 4u : 3u);
               });
}

TEST("a block that waits for blocks which do not fit beside it") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"1 blocks not started, of 2 that fit at once"}, [](bool fault) {
    emulator::options.threads = 1;
    emulator::options.residentBlocks = fault ? 2 : 3;
    DeviceArray<uint32_t> counter(std::vector<uint32_t>(1, 0));
    launch(waitsForNobody, dim3(3), dim3(32), 0, nullptr, counter.data(), 3u);
    EXPECT_EQ(launch_as(Launch::CORESIDENT, waitsForNobody, dim3(3), dim3(32), 0, nullptr, counter.data(), 3u),
              fault ? 720 : 0);
    emulator::options.threads = emulator::options.residentBlocks = 0;
  });
}

struct Bars {
  uint64_t bar;
};

__global__ void phases(float* out, bool fault, int kind) {
  auto& s = shared<Bars>();
  const int t = threadIdx.x;
  if (t == 0 && !(fault && kind == 0)) {
    mbar_init(&s.bar, 32);
    fence_barrier_init();
  }
  syncwarp();
  mbar_arrive(&s.bar);
  mbar_wait(&s.bar, 0);
  if (fault && kind == 1) mbar_wait(&s.bar, 1);
  out[t] = t;
}

TEST("an mbarrier that was not initialised") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"not an initialised mbarrier", "mbar_arrive at"}, [](bool fault) {
    DeviceArray<float> out(32);
    launch(phases, dim3(1), dim3(32), sizeof(Bars), nullptr, out.data(), fault, 0);
  });
}

__global__ void arrivesAgain(bool fault) {
  auto& s = shared<Bars>();
  if (threadIdx.x == 0) {
    mbar_init(&s.bar, 1);
    fence_barrier_init();
    // One arrival, but the phase waits for bytes that nobody sends yet.
    mbar_expect_tx(&s.bar, 16);
    if (fault) mbar_arrive(&s.bar);
  }
}

TEST("more arrivals than an mbarrier takes") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"more arrivals", "mbar_arrive at"},
               [](bool fault) { launch(arrivesAgain, dim3(1), dim3(32), sizeof(Bars), nullptr, fault); });
}

TEST("a phase that nobody ends") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"wait in mbar_wait at synchronisation_test.cpp:"}, [](bool fault) {
    DeviceArray<float> out(32);
    launch(phases, dim3(1), dim3(32), sizeof(Bars), nullptr, out.data(), fault, 1);
  });
}

__global__ void initialises(float* out, bool fault) {
  auto& s = shared<Bars>();
  const int t = threadIdx.x;
  if (t == 0) {
    mbar_init(&s.bar, 64);
    fence_barrier_init();
  }
  if (!fault) syncthreads();
  if (fault && t >= 32) syncwarp();
  mbar_arrive(&s.bar);
  mbar_wait(&s.bar, 0);
  out[t] = t;
}

TEST("an mbarrier used without a barrier after its initialisation") {
  if (!emulator::instrumented) return;
  DeviceArray<float> out(64);
  EXPECT_OK(launch(initialises, dim3(1), dim3(64), sizeof(Bars), nullptr, out.data(), false));
  EXPECT(emulator::report().clean());
  launch(initialises, dim3(1), dim3(64), sizeof(Bars), nullptr, out.data(), true);
  EXPECT(emulator::report().count(Kind::RACE) > 0);
}

}  // namespace
