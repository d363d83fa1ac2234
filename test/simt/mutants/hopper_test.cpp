// Faults of a Hopper pipeline, and of TMA stores.

#include "simt/mutants/hopper.cuh"

#include "simt/mutants/caught.h"

using namespace simt;
using namespace mutants;

namespace {

constexpr int STAGES = 4, K = 64 * STAGES;

TensorMap tensorMap(const uint16_t* data, uint64_t width, uint64_t height) {
  TensorMap map;
  const uint64_t sizes[] = {width, height}, strides[] = {width * 2};
  const uint32_t box[] = {64, 64};
  EXPECT_OK(make_tensor_map(&map, MapType::BF16, 2, data, sizes, strides, box, Swizzle::B128));
  return map;
}

// The largest error, or NaN.
template <HopperFault FAULT>
double pipeline() {
  std::vector<uint16_t> a(64 * K), b(K * 64);
  uint32_t random = 1;
  const auto value = [&] {
    random = random * 1664525u + 1013904223u;
    return f32_to_bf16(static_cast<float>(static_cast<int>(random >> 16 & 15) - 8));
  };
  for (uint16_t& x : a) x = value();
  for (uint16_t& x : b) x = value();
  DeviceArray<uint16_t> deviceA(a), deviceB(b);
  DeviceArray<float> c(64 * 64);
  launch(hopper<FAULT>, dim3(1), dim3(160), sizeof(HopperShared), nullptr, tensorMap(deviceA.data(), K, 64),
         tensorMap(deviceB.data(), 64, K), c.data(), STAGES);
  const std::vector<float> result = c.host();
  double worst = 0;
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < 64; ++j) {
      double sum = 0;
      for (int k = 0; k < K; ++k) sum -= double(bf16_to_f32(a[i * K + k])) * bf16_to_f32(b[k * 64 + j]);
      const double error = std::fabs(result[i * 64 + j] - sum);
      if (!(error <= worst)) worst = error;
    }
  }
  return worst;
}

template <HopperFault FAULT>
void expectFault(Seen seen, Kind kind, const std::vector<std::string>& texts) {
  expectCaught(seen, kind, texts, [](bool fault) {
    if (fault) {
      pipeline<FAULT>();
    } else {
      EXPECT_EQ(pipeline<HopperFault::NONE>(), 0.0);
    }
  });
}

TEST("a stage given back while wgmma reads it") {
  expectFault<HopperFault::EARLY_RELEASE>(Seen::CHECKED, Kind::RACE, {"tma_load at hopper.cuh:", "wgmma of warp"});
}

TEST("a wrong parity") { expectFault<HopperFault::PARITY>(Seen::ALWAYS, Kind::SYNCHRONISATION, {"mbar_expect_tx at"}); }

TEST("ordinary writes that wgmma reads without a proxy fence") {
  expectFault<HopperFault::NO_PROXY_FENCE>(Seen::CHECKED, Kind::PROXY, {"wgmma at hopper.cuh:", "code at hopper.cuh:"});
}

TEST("a proxy fence before the writes that it is to cover") {
  expectFault<HopperFault::EARLY_PROXY_FENCE>(Seen::CHECKED, Kind::PROXY, {"wgmma at hopper.cuh:"});
}

TEST("ordinary writes that wgmma of other warps reads without a barrier") {
  expectFault<HopperFault::NO_BARRIER>(Seen::CHECKED, Kind::RACE, {"wgmma at hopper.cuh:"});
}

TEST("accumulators read before their wait") {
  expectFault<HopperFault::NO_WAIT>(Seen::CHECKED, Kind::IN_FLIGHT, {"accumulators of wgmma at hopper.cuh:"});
  EXPECT(std::isnan(pipeline<HopperFault::NO_WAIT>()));
  emulator::report();
}

TEST("wgmma without a fence after the wait before") {
  expectFault<HopperFault::NO_WGMMA_FENCE>(Seen::ALWAYS, Kind::IN_FLIGHT, {"without wgmma_fence"});
}

TEST("a phase that ends before all of its bytes") {
  expectFault<HopperFault::BYTES>(Seen::CHECKED, Kind::IN_FLIGHT, {"still being written by tma_load"});
}

TEST("an mbarrier that TMA uses without fence_barrier_init") {
  expectFault<HopperFault::NO_BARRIER_FENCE>(Seen::ALWAYS, Kind::PROXY, {"fence_barrier_init"});
}

TEST("statistics of the pipeline") {
  emulator::report();
  pipeline<HopperFault::NONE>();
  const emulator::Statistics statistics = emulator::report().of(hopper<HopperFault::NONE>);
  EXPECT_EQ(statistics.launches, 1);
  EXPECT_EQ(statistics.blocks, 1);
  EXPECT_EQ(statistics.wgmma, 4 * STAGES);
  EXPECT_EQ(statistics.bulkBytes, 2 * 64 * K * 2);
  EXPECT_EQ(statistics.mma, 0);
  if (!emulator::instrumented) return;
  // 16 x 8 stores of 8 bytes by each of 4 warps, each 8 sectors of one column block.
  EXPECT_EQ(statistics.storeSectors, 4 * 16 * 8);
}

// ---- warps of a group that disagree

struct Tiles {
  __align__(1024) uint16_t a[64 * 64];
  __align__(1024) uint16_t b[64 * 64];
};

__global__ void __launch_bounds__(128) disagrees(float* out, bool fault) {
  auto& s = shared<Tiles>();
  const int t = threadIdx.x;
  for (int i = t; i < 64 * 64; i += 128) s.a[i] = s.b[i] = 0;
  fence_proxy_async();
  syncthreads();
  float d[32] = {};
  wgmma_fence();
  wgmma_bf16<64>(d, wgmma_desc(s.a, 16, 1024), wgmma_desc(s.b + (fault && t >= 96 ? 16 : 0), 16, 1024));
  wgmma_commit();
  wgmma_wait<0>();
  out[t] = d[0];
}

TEST("warps of a warpgroup that multiply different operands") {
  expectCaught(Seen::ALWAYS, Kind::SYNCHRONISATION, {"issue different products", "warp"}, [](bool fault) {
    DeviceArray<float> out(128);
    launch(disagrees, dim3(1), dim3(128), sizeof(Tiles), nullptr, out.data(), fault);
  });
}

__global__ void __launch_bounds__(128) overwrites(float* out, bool fault) {
  auto& s = shared<Tiles>();
  const int t = threadIdx.x;
  for (int i = t; i < 64 * 64; i += 128) s.a[i] = s.b[i] = 0;
  fence_proxy_async();
  syncthreads();
  float d[32] = {};
  wgmma_fence();
  wgmma_bf16<64>(d, wgmma_desc(s.a, 16, 1024), wgmma_desc(s.b, 16, 1024));
  wgmma_commit();
  if (!fault) wgmma_wait<0>();
  syncthreads();
  s.b[t] = 1;
  if (fault) wgmma_wait<0>();
  out[t] = d[0];
}

TEST("an operand written before wgmma has been waited for") {
  expectCaught(Seen::CHECKED, Kind::IN_FLIGHT, {"still being read by wgmma at hopper_test.cpp:"}, [](bool fault) {
    DeviceArray<float> out(128);
    launch(overwrites, dim3(1), dim3(128), sizeof(Tiles), nullptr, out.data(), fault);
  });
}

// ---- TMA stores

enum class StoreFault { NONE, NO_FENCE, NO_WAIT, OVERWRITE };

__global__ void stores(const __grid_constant__ TensorMap map, StoreFault fault) {
  auto& s = shared<Tiles>();
  const int t = threadIdx.x;
  for (int i = t; i < 64 * 64; i += 32) s.a[i] = static_cast<uint16_t>(i);
  if (fault != StoreFault::NO_FENCE) fence_proxy_async();
  syncthreads();
  if (t == 0) {
    tma_store_2d(&map, 8, -3, s.a);
    tma_store_commit();
    if (fault == StoreFault::NONE || fault == StoreFault::NO_FENCE) tma_store_wait_read<0>();
  }
  syncthreads();
  if (fault == StoreFault::OVERWRITE) s.a[t] = 0;
  if (t == 0 && fault == StoreFault::OVERWRITE) tma_store_wait<0>();
}

void expectStoreFault(StoreFault which, Seen seen, Kind kind, const std::string& text) {
  expectCaught(seen, kind, {text}, [which](bool fault) {
    DeviceArray<uint16_t> out(128 * 80);
    launch(stores, dim3(1), dim3(32), sizeof(Tiles), nullptr, tensorMap(out.data(), 128, 80),
           fault ? which : StoreFault::NONE);
    if (fault) return;
    // Row 2, column 9 of the tensor is row 5, column 1 of the tile, under the swizzle.
    EXPECT_EQ(out.host()[2 * 128 + 9], uint16_t(5 * 64 + (5 << 3) + 1));
    EXPECT_EQ(out.host()[2 * 128 + 7], 0xffff);
  });
}

TEST("a TMA store of ordinary writes without a proxy fence") {
  expectStoreFault(StoreFault::NO_FENCE, Seen::CHECKED, Kind::PROXY, "tma_store at hopper_test.cpp:");
}

TEST("a thread that ends before its TMA store has read shared memory") {
  expectStoreFault(StoreFault::NO_WAIT, Seen::ALWAYS, Kind::IN_FLIGHT, "ends before");
}

TEST("a tile written while a TMA store reads it") {
  expectStoreFault(StoreFault::OVERWRITE, Seen::CHECKED, Kind::IN_FLIGHT, "still being read by tma_store");
}

__global__ void storesFrom(const __grid_constant__ TensorMap map, int offset) {
  auto& s = shared<Tiles>();
  const int t = threadIdx.x;
  for (int i = t; i < 64 * 64; i += 32) s.a[i] = s.b[i] = 0;
  fence_proxy_async();
  syncthreads();
  if (t != 0) return;
  tma_store_2d(&map, 0, 0, s.a + offset);
  tma_store_commit();
  tma_store_wait<0>();
}

TEST("a tile of TMA that is not aligned") {
  expectCaught(Seen::ALWAYS, Kind::MISALIGNED, {"tma_store at hopper_test.cpp:"}, [](bool fault) {
    DeviceArray<uint16_t> out(128 * 80);
    launch(storesFrom, dim3(1), dim3(32), sizeof(Tiles), nullptr, tensorMap(out.data(), 128, 80), fault ? 64 : 0);
  });
}

}  // namespace
