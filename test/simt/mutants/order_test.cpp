// Races: in shared memory, in global memory within a block, and between blocks.

#include "simt/mutants/caught.h"
#include "simt/simt.cuh"

using namespace simt;
using namespace mutants;

namespace {

constexpr int WRITE = __LINE__ + 5;
constexpr int READ = __LINE__ + 6;
__global__ void exchange(float* out, bool fault) {
  auto& s = shared<float[64]>();
  const int t = threadIdx.x;
  s[t] = t;
  if (!fault) syncthreads();
  out[t] = s[63 - t];
}

TEST("a read of shared memory without a barrier after the write") {
  expectCaught(Seen::CHECKED, Kind::RACE,
               {line(__FILE__, WRITE), line(__FILE__, READ), "in kernel", "exchange", "block (0, 0, 0)"},
               [](bool fault) {
                 DeviceArray<float> out(64);
                 launch(exchange, dim3(1), dim3(64), sizeof(float[64]), nullptr, out.data(), fault);
                 if (!fault) EXPECT_EQ(out.host()[0], 63.f);
               });
}

__global__ void reuse(float* out, bool fault) {
  auto& s = shared<float[64]>();
  const int t = threadIdx.x;
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    s[t] = t * i;
    syncthreads();
    sum += s[63 - t];
    if (!fault) syncthreads();
  }
  out[t] = sum;
}

TEST("shared memory written again while others may still read it") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"not ordered after the read"}, [](bool fault) {
    DeviceArray<float> out(64);
    launch(reuse, dim3(1), dim3(64), sizeof(float[64]), nullptr, out.data(), fault);
  });
}

__global__ void sameWord(float* out, bool fault) {
  auto& s = shared<float[64]>();
  const int t = threadIdx.x;
  s[fault ? t / 2 : t] = t;
  syncthreads();
  out[t] = s[fault ? t / 2 : t];
}

TEST("two threads write one word") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"not ordered after the write"}, [](bool fault) {
    DeviceArray<float> out(64);
    launch(sameWord, dim3(1), dim3(64), sizeof(float[64]), nullptr, out.data(), fault);
  });
}

// Neighbouring bytes of one word are no race.
__global__ void halves(uint16_t* out, bool fault) {
  auto& s = shared<uint16_t[64]>();
  const int t = threadIdx.x;
  s[fault ? t & ~1 : t] = static_cast<uint16_t>(t);
  syncthreads();
  out[t] = s[fault ? t & ~1 : t ^ 1];
}

TEST("races are told apart by byte") {
  expectCaught(Seen::CHECKED, Kind::RACE, {}, [](bool fault) {
    DeviceArray<uint16_t> out(64);
    launch(halves, dim3(1), dim3(64), sizeof(uint16_t[64]), nullptr, out.data(), fault);
  });
}

__global__ void lanes(float* out, bool fault) {
  auto& s = shared<float[32]>();
  const int t = threadIdx.x;
  s[t] = t;
  // A shuffle does not order memory.
  if (fault) {
    out[32 + t] = shfl(1.f, 0);
  } else {
    syncwarp();
  }
  out[t] = s[t ^ 1];
}

TEST("lanes of a warp exchange through shared memory without syncwarp") {
  expectCaught(Seen::CHECKED, Kind::RACE, {}, [](bool fault) {
    DeviceArray<float> out(64);
    launch(lanes, dim3(1), dim3(32), sizeof(float[32]), nullptr, out.data(), fault);
  });
}

__global__ void partOfWarp(float* out, bool fault) {
  auto& s = shared<float[32]>();
  const int t = threadIdx.x;
  s[t] = t;
  syncwarp(t < 16 ? 0xffffu : 0xffff0000u);
  out[t] = s[t ^ (fault ? 16 : 1)];
}

TEST("syncwarp of half a warp orders that half only") {
  expectCaught(Seen::CHECKED, Kind::RACE, {}, [](bool fault) {
    DeviceArray<float> out(32);
    launch(partOfWarp, dim3(1), dim3(32), sizeof(float[32]), nullptr, out.data(), fault);
  });
}

// Warp 0 produces, warp 1 consumes; barrier 1: full, 2: empty.
__global__ void handover(float* out, bool fault) {
  auto& s = shared<float[32]>();
  const int t = threadIdx.x, lane = t & 31;
  float sum = 0;
  for (int i = 0; i < 4; ++i) {
    if (t < 32) {
      if (i) bar_sync(2, 64);
      s[lane] = i * 100 + lane;
      bar_arrive(1, 64);
    } else {
      bar_sync(1, 64);
      if (fault && i < 3) bar_arrive(2, 64);
      sum += s[lane ^ 1];
      if (!fault && i < 3) bar_arrive(2, 64);
    }
  }
  if (t >= 32) out[lane] = sum;
}

TEST("a consumer gives its buffer back before it has read it") {
  expectCaught(Seen::CHECKED, Kind::RACE, {}, [](bool fault) {
    DeviceArray<float> out(32);
    const Status status = launch(handover, dim3(1), dim3(64), sizeof(float[32]), nullptr, out.data(), fault);
    if (fault) return;
    EXPECT_EQ(status, 0);
    EXPECT_EQ(out.host()[0], 604.f);
  });
}

__global__ void throughGlobal(float* out, float* scratch, bool fault) {
  const int t = threadIdx.x;
  scratch[t] = t;
  if (!fault) syncthreads();
  out[t] = scratch[63 - t];
}

TEST("global memory exchanged within a block without a barrier") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"global memory"}, [](bool fault) {
    DeviceArray<float> out(64), scratch(std::vector<float>(64, 0.f));
    launch(throughGlobal, dim3(1), dim3(64), 0, nullptr, out.data(), scratch.data(), fault);
  });
}

__global__ void blocksWrite(float* out, bool fault) { out[threadIdx.x + (fault ? 0 : blockIdx.x * 32)] = blockIdx.x; }

TEST("two blocks write one word") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"block (0, 0, 0)", "block (1, 0, 0)"}, [](bool fault) {
    DeviceArray<float> out(64);
    launch(blocksWrite, dim3(2), dim3(32), 0, nullptr, out.data(), fault);
  });
}

__global__ void blocksRead(float* out, float* in, bool fault) {
  const int other = fault ? 1 - blockIdx.x : blockIdx.x;
  const float x = in[other * 32 + threadIdx.x];
  out[blockIdx.x * 32 + threadIdx.x] = x;
  syncthreads();
  in[blockIdx.x * 32 + threadIdx.x] = x + 1;
}

TEST("a block writes what another reads") {
  expectCaught(Seen::CHECKED, Kind::RACE, {}, [](bool fault) {
    DeviceArray<float> out(64), in(std::vector<float>(64, 1.f));
    launch(blocksRead, dim3(2), dim3(32), 0, nullptr, out.data(), in.data(), fault);
  });
}

// Each block adds to a counter when its part is written; the last block waits for all and sums the parts.
__global__ void lastSums(float* parts, uint32_t* counter, float* out, bool fault) {
  const int t = threadIdx.x, last = gridDim.x - 1;
  parts[blockIdx.x * 32 + t] = blockIdx.x + t;
  if (!fault) syncthreads();
  if (t == 0) add_release(counter, 1);
  if (blockIdx.x != last) return;
  if (t == 0) {
    while (load_acquire(counter) < gridDim.x) sleep(64);
  }
  syncthreads();
  float sum = 0;
  for (int b = 0; b <= last; ++b) sum += parts[b * 32 + t];
  out[t] = sum;
}

TEST("a release by one thread for others that it has not met") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"global memory"}, [](bool fault) {
    DeviceArray<float> parts(4 * 32), out(32);
    DeviceArray<uint32_t> counter(std::vector<uint32_t>(1, 0));
    EXPECT_OK(launch(lastSums, dim3(4), dim3(32), 0, nullptr, parts.data(), counter.data(), out.data(), fault));
    if (!fault) EXPECT_EQ(out.host()[1], 10.f);
  });
}

// Block 0 writes and tells block 1, which tells block 2, which reads.
__global__ void relays(float* data, uint32_t* flags, float* out, bool fault) {
  const int t = threadIdx.x, block = blockIdx.x;
  if (block == 0) data[t] = 5;
  syncwarp();
  if (block > 0 && !(fault && block == 1)) {
    while (load_acquire(&flags[block - 1]) == 0) {
    }
  }
  syncwarp();
  if (t == 0) add_release(&flags[block], 1);
  if (block == 2) out[t] = data[t];
}

TEST("order is handed on by a third block, if that has acquired it") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"block (2, 0, 0)", "block (0, 0, 0)"}, [](bool fault) {
    DeviceArray<float> data(std::vector<float>(32, 0.f)), out(32);
    DeviceArray<uint32_t> flags(std::vector<uint32_t>(3, 0));
    EXPECT_OK(launch(relays, dim3(3), dim3(32), 0, nullptr, data.data(), flags.data(), out.data(), fault));
    if (!fault) EXPECT_EQ(out.host()[31], 5.f);
  });
}

// Lanes of block 0 poll for what block 1 writes; with the fault only lane 0 acquires, and tells the others by a
// shuffle.
__global__ void polls(float* data, uint32_t* flag, float* out, bool fault) {
  const int t = threadIdx.x;
  if (blockIdx.x == 1) {
    data[t] = 5;
    syncwarp();
    if (t == 0) add_release(flag, 1);
    return;
  }
  uint32_t seen = 0;
  while (!seen) {
    if (t == 0 || !fault) seen = load_acquire(flag);
    seen = shfl(seen, 0);
  }
  out[t] = data[t];
}

TEST("an acquire by one lane, told to the others by a shuffle") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"global memory"}, [](bool fault) {
    DeviceArray<float> data(32), out(32);
    DeviceArray<uint32_t> flag(std::vector<uint32_t>(1, 0));
    EXPECT_OK(launch(polls, dim3(2), dim3(32), 0, nullptr, data.data(), flag.data(), out.data(), fault));
    if (!fault) EXPECT_EQ(out.host()[31], 5.f);
  });
}

__global__ void readOnly(float* x, float* out, bool fault) {
  const int t = threadIdx.x;
  if (fault) x[4 * t] = 1;
  float v[4];
  ld4_nc(v, x + 4 * t);
  out[t] = v[0] + v[3];
}

TEST("a non-coherent load of memory that the launch writes") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"non-coherent"}, [](bool fault) {
    DeviceArray<float> x(std::vector<float>(128, 2.f)), out(32);
    launch(readOnly, dim3(1), dim3(32), 0, nullptr, x.data(), out.data(), fault);
  });
}

}  // namespace
