// Memory that must not be touched, or not yet.

#include "simt/mutants/caught.h"
#include "simt/simt.cuh"

using namespace simt;
using namespace mutants;

namespace {

struct Two {
  float a[32], b[32];
};

__global__ void sums(float* out, bool fault) {
  auto& s = shared<Two>();
  const int t = threadIdx.x;
  s.a[t] = t;
  if (!fault) s.b[t] = t;
  out[t] = s.a[t] + s.b[t];
}

TEST("shared memory that was not written") {
  expectCaught(Seen::CHECKED, Kind::UNINITIALISED, {"memory_test.cpp:"}, [](bool fault) {
    DeviceArray<float> out(32);
    launch(sums, dim3(1), dim3(32), sizeof(Two), nullptr, out.data(), fault);
    if (!fault) EXPECT_EQ(out.host()[3], 6.f);
  });
}

__global__ void everyBlock(float* out, bool fault) {
  auto& s = shared<float[32]>();
  if (!fault || blockIdx.x == 0) s[threadIdx.x] = 1;
  out[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];
}

TEST("shared memory that only the block before has written") {
  expectCaught(Seen::CHECKED, Kind::UNINITIALISED, {"block (1, 0, 0)"}, [](bool fault) {
    DeviceArray<float> out(64);
    launch(everyBlock, dim3(2), dim3(32), sizeof(float[32]), nullptr, out.data(), fault);
  });
}

__global__ void copies(const float* in, float* out, int n) {
  const int t = blockIdx.x * 32 + threadIdx.x;
  if (t < n) out[t] = in[t];
}

TEST("global memory that nobody has written") {
  expectCaught(Seen::CHECKED, Kind::UNINITIALISED, {"in kernel"}, [](bool fault) {
    DeviceArray<float> in(40), out(40);
    if (!fault) in.set(std::vector<float>(40, 1.f));
    launch(copies, dim3(2), dim3(32), 0, nullptr, in.data(), out.data(), 40);
  });
}

TEST("what a launch wrote is initialised for the next") {
  DeviceArray<float> in(std::vector<float>(40, 1.f)), middle(40), out(40);
  EXPECT_OK(launch(copies, dim3(2), dim3(32), 0, nullptr, in.data(), middle.data(), 40));
  EXPECT_OK(launch(copies, dim3(2), dim3(32), 0, nullptr, middle.data(), out.data(), 40));
  EXPECT_EQ(out.host()[39], 1.f);
}

TEST("a write past an array in global memory") {
  expectCaught(Seen::CHECKED, Kind::OUT_OF_BOUNDS, {"write by thread 8 of block (1, 0, 0)"}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(64, 1.f)), out(40);
    launch(copies, dim3(2), dim3(32), 0, nullptr, in.data(), out.data(), fault ? 41 : 40);
  });
}

TEST("a read past an array in global memory") {
  expectCaught(Seen::CHECKED, Kind::OUT_OF_BOUNDS, {"read by thread 8 of block (1, 0, 0)"}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(40, 1.f)), out(64);
    launch(copies, dim3(2), dim3(32), 0, nullptr, in.data(), out.data(), fault ? 41 : 40);
  });
}

TEST("a read before an array in global memory") {
  expectCaught(Seen::CHECKED, Kind::OUT_OF_BOUNDS, {"read by thread 0"}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(40, 1.f)), out(64);
    launch(copies, dim3(1), dim3(32), 0, nullptr, in.data() - (fault ? 1 : 0), out.data(), 32);
  });
}

TEST("memory that has been freed") {
  expectCaught(Seen::CHECKED, Kind::OUT_OF_BOUNDS, {"not allocated"}, [](bool fault) {
    DeviceArray<float> out(64);
    auto* in = static_cast<float*>(emulator::allocate(256, true));
    std::memset(in, 0, 256);
    if (fault) emulator::free(in);
    launch(copies, dim3(1), dim3(32), 0, nullptr, static_cast<const float*>(in), out.data(), 32);
    if (!fault) emulator::free(in);
  });
}

TEST("a pointer of the host") {
  expectCaught(Seen::CHECKED, Kind::OUT_OF_BOUNDS, {"outside of device memory"}, [](bool fault) {
    // So large that it has pages of its own.
    const std::vector<float> host(1 << 20, 1.f);
    DeviceArray<float> in(std::vector<float>(32, 1.f)), out(32);
    launch(copies, dim3(1), dim3(32), 0, nullptr, fault ? host.data() : in.data(), out.data(), 32);
  });
}

TEST("a null pointer ends the launch, not the program") {
  expectCaught(Seen::CHECKED, Kind::OUT_OF_BOUNDS, {"outside of device memory"}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(32, 1.f)), out(32);
    const Status status = launch(copies, dim3(1), dim3(32), 0, nullptr, in.data(), fault ? nullptr : out.data(), 32);
    EXPECT_EQ(status != 0, fault);
  });
}

__global__ void past(float* out, bool fault) {
  auto& s = shared<float[40]>();
  const int t = threadIdx.x;
  s[t] = t;
  if (t < (fault ? 9 : 8)) s[32 + t] = 1;
  syncthreads();
  out[t] = s[t];
}

TEST("a write past shared memory") {
  expectCaught(Seen::CHECKED, Kind::OUT_OF_BOUNDS, {"byte 160 of 160 of shared memory"}, [](bool fault) {
    DeviceArray<float> out(32);
    launch(past, dim3(1), dim3(32), sizeof(float[40]), nullptr, out.data(), fault);
  });
}

// 16-byte rows, each lane's own.
__global__ void rows(uint32_t* out, bool fault) {
  auto& s = shared<uint16_t[32 * 8 + 8]>();
  const int t = threadIdx.x;
  for (int i = t; i < 264; i += 32) s[i] = static_cast<uint16_t>(i);
  syncwarp();
  uint32_t r[4];
  ldmatrix_x4(r, s + t * 8 + (fault ? 1 : 0));
  out[t] = r[0];
}

TEST("a row of ldmatrix that is not aligned") {
  expectCaught(Seen::ALWAYS, Kind::MISALIGNED, {"ldmatrix at memory_test.cpp:"}, [](bool fault) {
    DeviceArray<uint32_t> out(32);
    launch(rows, dim3(1), dim3(32), sizeof(uint16_t[264]), nullptr, out.data(), fault);
  });
}

__global__ void loads(const float* in, float* out, bool fault) {
  auto& s = shared<float[32 * 4 + 4]>();
  const int t = threadIdx.x;
  cp_async16(s + t * 4, in + t * 4 + (fault ? 1 : 0));
  cp_async_commit();
  cp_async_wait<0>();
  out[t] = s[t * 4];
}

TEST("cp.async from an address that is not aligned") {
  expectCaught(Seen::ALWAYS, Kind::MISALIGNED, {"cp_async at memory_test.cpp:"}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(132, 1.f)), out(32);
    launch(loads, dim3(1), dim3(32), sizeof(float[132]), nullptr, in.data(), out.data(), fault);
  });
}

}  // namespace
