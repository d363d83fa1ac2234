// What a decode step costs in memory traffic: one read and one write of the state.
#include "recurrence_token_forward.cuh"
#include "simt/check.h"

namespace rankone::cuda {
namespace {

constexpr int K = 128, V = 128, HV = 4, H = 2, kBlocks = 4;
constexpr int64_t kState = K * V, kSectorFloats = 8;

// Value head h of one sequence, one token of the gated delta rule in bf16, states in place.
template <bool kDelta>
void decode(int32_t tiles) {
  const std::vector<uint16_t> ones(HV * V, 0x3f80);
  const std::vector<float> gates(HV * K, -0.1f), states(HV * kState, 1.0f);
  const DeviceArray<uint16_t> q(ones), k(ones), v(ones), beta(ones), o(HV * V);
  const DeviceArray<float> g(gates), S(states);
  TokenArgs args{};
  args.T = 1;
  args.H = H;
  args.HV = HV;
  args.K = K;
  args.V = V;
  args.n = 1;
  args.gate = RANKONE_GATE_CHANNEL;
  args.tiles = tiles;
  args.blocks = V / (kTileColumns * tiles);
  args.q = q.data();
  args.k = k.data();
  args.columns = v.data();
  args.dtype = args.columnsDType = args.betaDType = RANKONE_BF16;
  args.kDType = args.columnsDType = args.betaDType = RANKONE_BF16;
  args.g = g.data();
  args.beta = kDelta ? beta.data() : nullptr;
  args.scale = 1;
  args.firstState = args.lastState = S.data();
  args.o = o.data();
  const auto kernel = recurrenceToken<kBlocks, kDelta, false>;
  EXPECT_OK(simt::launch(kernel, HV * args.blocks, 32 * (tiles + 1), sizeof(TokenShared<kBlocks>), 0, args));
  EXPECT_OK(simt::check::synchronize());
  // Keys of ones: a decayed state of rows that are all alike.
  const float decayed = 1 + expm1f(-0.1f), u = kDelta ? 1 - K * decayed : 1;
  EXPECT_NEAR(S.host()[0], decayed + u, 1e-5 * K);

#if !defined(__CUDACC__)
  const auto report = simt::emulator::report();
  EXPECT(report.clean());
  const auto costs = report.of(kernel);
  if (!simt::emulator::instrumented) return;
  // Beside the state: q, k and g of a block's head, its columns of v and o, a beta.
  const int64_t state = HV * kState / kSectorFloats, blocks = HV * args.blocks;
  const int64_t rows = K / 16 * 2 + K / 8 + tiles + kDelta;
  EXPECT_EQ(costs.storeSectors, state + HV * V / 16);
  EXPECT_EQ(costs.loadSectors, state + blocks * rows);
  EXPECT(costs.loadSectors + costs.storeSectors <= costs.idealSectors);
  EXPECT_EQ(costs.wavefronts, costs.idealWavefronts);
#endif
}

TEST("a decode step reads and writes the state once, and little else") {
  decode<true>(4);
  decode<false>(4);
  decode<true>(2);
  decode<true>(1);
}

}  // namespace
}  // namespace rankone::cuda
