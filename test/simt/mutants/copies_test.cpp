// cp.async: groups, waits, and what other threads may see.

#include "simt/mutants/caught.h"
#include "simt/simt.cuh"

using namespace simt;
using namespace mutants;

namespace {

struct Ring {
  __align__(16) float stage[2][32 * 4];
};

__global__ void waits(const float* in, float* out, bool fault) {
  auto& s = shared<Ring>();
  const int t = threadIdx.x;
  cp_async16(&s.stage[0][t * 4], in + t * 4);
  cp_async_commit();
  if (!fault) cp_async_wait<0>();
  out[t] = s.stage[0][t * 4];
  if (fault) cp_async_wait<0>();
}

TEST("cp.async read before its wait") {
  expectCaught(Seen::CHECKED, Kind::IN_FLIGHT, {"cp_async at copies_test.cpp:", "read by thread "}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(128, 3.f)), out(32);
    launch(waits, dim3(1), dim3(32), sizeof(Ring), nullptr, in.data(), out.data(), fault);
    if (!fault) EXPECT_EQ(out.host()[5], 3.f);
  });
}

TEST("data of cp.async is not there before its wait") {
  DeviceArray<float> in(std::vector<float>(128, 3.f)), out(32);
  launch(waits, dim3(1), dim3(32), sizeof(Ring), nullptr, in.data(), out.data(), true);
  EXPECT(std::isnan(out.host()[5]));
  emulator::report();
}

__global__ void ring(const float* in, float* out, int steps, bool fault) {
  auto& s = shared<Ring>();
  const int t = threadIdx.x;
  const auto load = [&](int i) {
    if (i < steps) cp_async16(&s.stage[i & 1][t * 4], in + i * 128 + t * 4);
    cp_async_commit();
  };
  load(0);
  float sum = 0;
  for (int i = 0; i < steps; ++i) {
    load(i + 1);
    if (fault) {
      cp_async_wait<2>();
    } else {
      cp_async_wait<1>();
    }
    syncthreads();
    sum += s.stage[i & 1][(31 - t) * 4];
    syncthreads();
  }
  cp_async_wait<0>();
  out[t] = sum;
}

TEST("a ring of cp.async that waits for one group too few") {
  expectCaught(Seen::CHECKED, Kind::IN_FLIGHT, {}, [](bool fault) {
    std::vector<float> values(4 * 128);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i / 128);
    DeviceArray<float> in(values), out(32);
    launch(ring, dim3(1), dim3(32), sizeof(Ring), nullptr, in.data(), out.data(), 4, fault);
    if (!fault) EXPECT_EQ(out.host()[5], 6.f);
  });
}

__global__ void noBarrier(const float* in, float* out, bool fault) {
  auto& s = shared<Ring>();
  const int t = threadIdx.x;
  cp_async16(&s.stage[0][t * 4], in + t * 4);
  cp_async_commit();
  cp_async_wait<0>();
  if (!fault) syncthreads();
  out[t] = s.stage[0][(31 - t) * 4];
}

TEST("cp.async of other threads without a barrier after their wait") {
  expectCaught(Seen::CHECKED, Kind::RACE, {"cp_async at copies_test.cpp:"}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(128, 3.f)), out(32);
    launch(noBarrier, dim3(1), dim3(32), sizeof(Ring), nullptr, in.data(), out.data(), fault);
  });
}

__global__ void ends(const float* in, bool fault) {
  auto& s = shared<Ring>();
  cp_async16(&s.stage[0][threadIdx.x * 4], in + threadIdx.x * 4);
  cp_async_commit();
  if (!fault) cp_async_wait<0>();
}

TEST("a thread that ends before its cp.async") {
  expectCaught(Seen::ALWAYS, Kind::IN_FLIGHT, {"ends before"}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(128, 3.f));
    launch(ends, dim3(1), dim3(32), sizeof(Ring), nullptr, in.data(), fault);
  });
}

__global__ void partial(const float* in, float* out, int bytes, int past) {
  auto& s = shared<Ring>();
  const int t = threadIdx.x;
  cp_async16_zfill(&s.stage[0][t * 4], in + t * 4, t < 31 ? 16 : bytes + past);
  cp_async_commit();
  cp_async_wait<0>();
  float v[4];
  ld4(v, &s.stage[0][t * 4]);
  st4(out + t * 4, v);
}

TEST("cp.async that reads past an array, and one that fills with zeros instead") {
  expectCaught(Seen::CHECKED, Kind::OUT_OF_BOUNDS, {"cp_async at copies_test.cpp:"}, [](bool fault) {
    DeviceArray<float> in(std::vector<float>(126, 3.f)), out(128);
    launch(partial, dim3(1), dim3(32), sizeof(Ring), nullptr, in.data(), out.data(), 8, fault ? 4 : 0);
    if (fault) return;
    EXPECT_EQ(out.host()[125], 3.f);
    EXPECT_EQ(out.host()[126], 0.f);
  });
}

}  // namespace
