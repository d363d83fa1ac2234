// Descriptors of wgmma: operands without a swizzle and under 64 bytes, either way round. Hopper only.

#include "simt/conformance/data.h"
#include "simt/simt.cuh"

using namespace conformance;
using simt::Swizzle;

namespace {

constexpr int HALVES = 2048;  // of an operand's picture in shared memory

struct Operands {
  __align__(1024) uint16_t a[HALVES];
  __align__(1024) uint16_t b[HALVES];
};

struct Distances {
  uint32_t leading, stride;
};

template <Swizzle SWIZZLE, int T>
__global__ void __launch_bounds__(128) products(const uint32_t* in, uint32_t* out, Distances distances) {
  auto& s = simt::shared<Operands>();
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  for (int i = t; i < HALVES; i += 128) {
    s.a[i] = static_cast<uint16_t>(in[i]);
    s.b[i] = static_cast<uint16_t>(in[HALVES + i]);
  }
  simt::fence_proxy_async();
  simt::syncthreads();
  float d[32];
  SIMT_UNROLL
  for (int i = 0; i < 32; ++i) d[i] = 1;
  simt::wgmma_fence();
  simt::wgmma_bf16<64, T, T>(d, simt::wgmma_desc(s.a, distances.leading, distances.stride, SWIZZLE),
                             simt::wgmma_desc(s.b, distances.leading, distances.stride, SWIZZLE));
  simt::wgmma_commit();
  simt::wgmma_wait<0>();
  SIMT_UNROLL
  for (int i = 0; i < 32; ++i) {
    const int row = warp * 16 + (lane >> 2) + (i >> 1 & 1) * 8, column = (i >> 2) * 8 + (lane & 3) * 2 + (i & 1);
    out[row * 64 + column] = simt::f32_bits(d[i]);
  }
}

// Where element (r, k) of a 64 x 16 operand lies, in halves.
int position(Swizzle swizzle, int transposed, Distances distances, int r, int k) {
  const int leading = static_cast<int>(distances.leading) / 2, stride = static_cast<int>(distances.stride) / 2;
  const int along = transposed ? r : k, across = transposed ? k : r;  // along a row of an atom, and which row
  if (swizzle == Swizzle::NONE) return r / 8 * stride + k / 8 * leading + across % 8 * 8 + along % 8;
  const int piece = along % 32 / 8 ^ (across % 8 / 2);
  return along / 32 * leading + across / 8 * stride + across % 8 * 32 + piece * 8 + along % 8;
}

template <Swizzle SWIZZLE, int T>
void testOperands(Distances distances) {
  if (simt::check::capability() != 90) return;
  Random random(7);
  int a[64][16], b[64][16];
  // What no element covers must not count.
  Words in(2 * HALVES, 0x7f80), expected(64 * 64);
  for (int r = 0; r < 64; ++r) {
    for (int k = 0; k < 16; ++k) {
      const auto at = static_cast<size_t>(position(SWIZZLE, T, distances, r, k));
      in[at] = smallBf16(a[r][k] = random.small());
      in[HALVES + at] = smallBf16(b[r][k] = random.small());
    }
  }
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < 64; ++j) {
      int sum = 1;
      for (int k = 0; k < 16; ++k) sum += a[i][k] * b[j][k];
      expected[i * 64 + j] = asBits(static_cast<float>(sum));
    }
  }
  DeviceArray<uint32_t> input(in), output(expected.size());
  EXPECT_OK(simt::launch(products<SWIZZLE, T>, dim3(1), dim3(128), sizeof(Operands), nullptr,
                         static_cast<const uint32_t*>(input.data()), output.data(), distances));
  EXPECT_OK(simt::check::synchronize());
  expectWords(output.host(), expected);
}

TEST("wgmma without a swizzle") {
  testOperands<Swizzle::NONE, 0>({128, 256});
  testOperands<Swizzle::NONE, 0>({1024, 128});
}

TEST("wgmma without a swizzle, transposed") {
  testOperands<Swizzle::NONE, 1>({1024, 128});
  testOperands<Swizzle::NONE, 1>({128, 256});
}

TEST("wgmma under a swizzle of 64 bytes") { testOperands<Swizzle::B64, 0>({16, 512}); }

TEST("wgmma under a swizzle of 64 bytes, transposed") { testOperands<Swizzle::B64, 1>({1024, 512}); }

}  // namespace
