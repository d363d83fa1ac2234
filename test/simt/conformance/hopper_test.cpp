// mbarriers, TMA, wgmma: Hopper only.

#include "simt/conformance/data.h"
#include "simt/simt.cuh"

using namespace conformance;
using simt::MapType;
using simt::Swizzle;
using simt::TensorMap;

namespace {

bool hopper() { return simt::check::capability() == 90; }

struct Ring {
  uint64_t full[2], empty[2];
  uint32_t data[2][32];
};

// As with bar_arrive; phases wrap around eight times.
__global__ void rings(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<Ring>();
  const int t = threadIdx.x, lane = t & 31;
  if (t == 0) {
    for (int i = 0; i < 2; ++i) {
      simt::mbar_init(&s.full[i], 32);
      simt::mbar_init(&s.empty[i], 32);
    }
    simt::fence_barrier_init();
  }
  simt::syncthreads();
  uint32_t sum = 0;
  for (int i = 0; i < 32; ++i) {
    const int stage = i & 1;
    if (t < 32) {
      if (i >= 2) simt::mbar_wait(&s.empty[stage], ((i >> 1) - 1) & 1);
      s.data[stage][lane] = in[i * 32 + lane];
      simt::mbar_arrive(&s.full[stage]);
    } else {
      simt::mbar_wait(&s.full[stage], (i >> 1) & 1);
      sum = sum * 3 + s.data[stage][lane ^ i];
      simt::mbar_arrive(&s.empty[stage]);
    }
  }
  if (t >= 32) out[lane] = sum;
}

TEST("mbar_init, mbar_arrive, mbar_wait") {
  if (simt::check::capability() < 90) return;
  const Words in = noise(32 * 32);
  Words expected(32);
  for (int i = 0; i < 32; ++i) {
    for (int lane = 0; lane < 32; ++lane) expected[lane] = expected[lane] * 3 + in[i * 32 + (lane ^ i)];
  }
  expectWords(run(rings, in, 32, 64, sizeof(Ring)), expected);
}

// ---- TMA

struct Tile {
  __align__(1024) uint16_t data[4096];
  uint64_t bar;
};

struct Box {
  int at[4];
  uint32_t words;  // of the tile
};

template <int RANK>
__global__ void loads(const __grid_constant__ TensorMap map, uint32_t* out, Box box) {
  auto& s = simt::shared<Tile>();
  const int t = threadIdx.x;
  if (t == 0) {
    simt::mbar_init(&s.bar, 1);
    simt::fence_barrier_init();
    simt::mbar_expect_tx(&s.bar, box.words * 4);
    if (RANK == 2) simt::tma_load_2d(s.data, &map, box.at[0], box.at[1], &s.bar);
    if (RANK == 3) simt::tma_load_3d(s.data, &map, box.at[0], box.at[1], box.at[2], &s.bar);
    if (RANK == 4) simt::tma_load_4d(s.data, &map, box.at[0], box.at[1], box.at[2], box.at[3], &s.bar);
  }
  simt::syncthreads();
  simt::mbar_wait(&s.bar, 0);
  for (uint32_t i = t; i < box.words; i += 64) {
    out[i] = s.data[2 * i] | static_cast<uint32_t>(s.data[2 * i + 1]) << 16;
  }
}

template <int RANK>
__global__ void stores(const __grid_constant__ TensorMap map, Box box) {
  auto& s = simt::shared<Tile>();
  const int t = threadIdx.x;
  for (uint32_t i = t; i < box.words * 2; i += 64) s.data[i] = static_cast<uint16_t>(i + 1);
  simt::fence_proxy_async();
  simt::syncthreads();
  if (t == 0) {
    if (RANK == 2) simt::tma_store_2d(&map, box.at[0], box.at[1], s.data);
    if (RANK == 3) simt::tma_store_3d(&map, box.at[0], box.at[1], box.at[2], s.data);
    if (RANK == 4) simt::tma_store_4d(&map, box.at[0], box.at[1], box.at[2], box.at[3], s.data);
    simt::tma_store_commit();
    simt::tma_store_wait_read<0>();
    simt::tma_store_wait<0>();
  }
}

struct Tensor {
  std::vector<uint64_t> sizes, strides;  // elements; bytes, from dimension 1
  std::vector<uint32_t> box;
  size_t elements;
};

// Where an element of a box lies in the tile, in elements: pieces of 16 bytes change places within 8 rows.
size_t inTile(const Tensor& tensor, Swizzle swizzle, const uint32_t* at) {
  size_t row = 0;
  for (size_t d = tensor.box.size(); d-- > 1;) row = row * tensor.box[d] + at[d];
  const size_t byte = (row * tensor.box[0] + at[0]) * 2, piece = byte / 16;
  size_t moved = piece;
  if (swizzle == Swizzle::B128) moved = piece ^ (piece / 8 % 8);
  if (swizzle == Swizzle::B64) moved = piece ^ (piece / 8 % 4);
  return (moved * 16 + byte % 16) / 2;
}

// The element of the tensor, or -1 outside.
long inTensor(const Tensor& tensor, const Box& box, const uint32_t* at) {
  long byte = 0;
  for (size_t d = 0; d < tensor.sizes.size(); ++d) {
    const long x = box.at[d] + static_cast<long>(at[d]);
    if (x < 0 || x >= static_cast<long>(tensor.sizes[d])) return -1;
    byte += x * static_cast<long>(d ? tensor.strides[d - 1] : 2);
  }
  return byte / 2;
}

template <class Visit>
void forEach(const Tensor& tensor, Visit visit) {
  uint32_t at[4] = {};
  for (;;) {
    visit(at);
    size_t d = 0;
    while (d < tensor.box.size() && ++at[d] == tensor.box[d]) at[d++] = 0;
    if (d == tensor.box.size()) return;
  }
}

template <int RANK>
void testBoxes(const Tensor& tensor, Swizzle swizzle, const std::vector<Box>& boxes) {
  if (simt::check::capability() < 90) return;
  std::vector<uint16_t> values(tensor.elements);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i + 1);
  for (Box box : boxes) {
    box.words = 1;
    for (const uint32_t extent : tensor.box) box.words *= extent;
    box.words /= 2;
    DeviceArray<uint16_t> data(values);
    DeviceArray<uint32_t> out(box.words);
    TensorMap map;
    EXPECT_OK(simt::make_tensor_map(&map, MapType::BF16, RANK, data.data(), tensor.sizes.data(), tensor.strides.data(),
                                    tensor.box.data(), swizzle));
    EXPECT_OK(simt::launch(loads<RANK>, dim3(1), dim3(64), sizeof(Tile), nullptr, map, out.data(), box));
    EXPECT_OK(simt::check::synchronize());
    Words expected(box.words);
    std::vector<uint16_t> stored = values;
    forEach(tensor, [&](const uint32_t* at) {
      const long from = inTensor(tensor, box, at);
      const size_t to = inTile(tensor, swizzle, at);
      if (from < 0) return;
      expected[to / 2] |= static_cast<uint32_t>(values[static_cast<size_t>(from)]) << 16 * (to % 2);
      stored[static_cast<size_t>(from)] = static_cast<uint16_t>(to + 1);
    });
    expectWords(out.host(), expected);

    EXPECT_OK(simt::launch(stores<RANK>, dim3(1), dim3(64), sizeof(Tile), nullptr, map, box));
    EXPECT_OK(simt::check::synchronize());
    const std::vector<uint16_t> written = data.host();
    expectWords(Words(written.begin(), written.end()), Words(stored.begin(), stored.end()));
  }
}

TEST("tma_load_2d, tma_store_2d") {
  const Tensor tensor = {{104, 90}, {208}, {64, 64}, 104 * 90};
  const std::vector<Box> boxes = {{{8, 5}, 0}, {{72, 50}, 0}, {{-16, -7}, 0}, {{33, 60}, 0}, {{200, 0}, 0}};
  testBoxes<2>(tensor, Swizzle::B128, boxes);
  testBoxes<2>({{104, 90}, {208}, {32, 64}, 104 * 90}, Swizzle::B64, boxes);
  testBoxes<2>({{104, 90}, {208}, {24, 50}, 104 * 90}, Swizzle::NONE, boxes);
}

TEST("tma_load_3d, tma_store_3d") {
  testBoxes<3>({{40, 6, 12}, {96, 576}, {64, 2, 8}, 48 * 6 * 12}, Swizzle::B128, {{{0, 1, 2}, 0}, {{-5, 5, 9}, 0}});
}

TEST("tma_load_4d, tma_store_4d") {
  testBoxes<4>({{32, 3, 5, 4}, {64, 192, 960}, {32, 1, 4, 2}, 32 * 3 * 5 * 4}, Swizzle::B64,
               {{{0, 1, 1, 0}, 0}, {{8, 2, 3, 3}, 0}});
}

// ---- wgmma

struct Operands {
  __align__(1024) uint16_t a[64 * 64];
  __align__(1024) uint16_t b[64 * 256];
};

// A lies as [64 m][64 k] or, transposed, [64 k][64 m]; B as [N n][64 k], or blocks of [64 k][64 n]; rows of 128 bytes.
template <int N, int TA, int TB, bool REGISTERS, bool F16>
__global__ void __launch_bounds__(128) products(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<Operands>();
  const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  const auto swizzled = [](int i) { return i ^ ((i >> 6 & 7) << 3); };
  for (int i = t; i < 64 * 64; i += 128) s.a[swizzled(i)] = static_cast<uint16_t>(in[i]);
  for (int i = t; i < 64 * N; i += 128) s.b[swizzled(i)] = static_cast<uint16_t>(in[4096 + i]);
  simt::fence_proxy_async();
  simt::syncthreads();
  float d[N / 2];
  SIMT_UNROLL
  for (int i = 0; i < N / 2; ++i) d[i] = 3;
  simt::wgmma_fence();
  SIMT_UNROLL
  for (int k = 0; k < 4; ++k) {
    const uint64_t b = simt::wgmma_desc(s.b + k * (TB ? 1024 : 16), TB ? 8192 : 16, 1024);
    // The first product takes the place of what d holds.
    if constexpr (REGISTERS) {
      uint32_t a[4];
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = warp * 16 + (lane >> 2) + (i & 1) * 8, column = k * 16 + (lane & 3) * 2 + (i >> 1) * 8;
        a[i] = in[row * 64 + column] | in[row * 64 + column + 1] << 16;
      }
      simt::wgmma_fence();
      if constexpr (F16) {
        simt::wgmma_f16<N, TB>(d, a, b, k > 0);
      } else {
        simt::wgmma_bf16<N, TB>(d, a, b, k > 0);
      }
      simt::wgmma_commit();
      simt::wgmma_wait<0>();
    } else {
      const uint64_t a = simt::wgmma_desc(s.a + k * (TA ? 1024 : 16), TA ? 8192 : 16, 1024);
      if constexpr (F16) {
        simt::wgmma_f16<N, TA, TB>(d, a, b, k > 0);
      } else {
        simt::wgmma_bf16<N, TA, TB>(d, a, b, k > 0);
      }
    }
  }
  simt::wgmma_commit();
  simt::wgmma_wait<0>();
  SIMT_UNROLL
  for (int i = 0; i < N / 2; ++i) {
    const int row = warp * 16 + (lane >> 2) + (i >> 1 & 1) * 8, column = (i >> 2) * 8 + (lane & 3) * 2 + (i & 1);
    out[row * N + column] = simt::f32_bits(d[i]);
  }
}

template <int N, int TA, int TB, bool REGISTERS, bool F16>
void testProducts() {
  if (!hopper()) return;
  Random random(N + TA * 2 + TB);
  int a[64][64], b[64][N];
  Words in(4096 + 64 * N), expected(64 * N);
  const auto encode = [](int x) -> uint32_t { return F16 ? smallF16(x) : smallBf16(x); };
  for (int i = 0; i < 64; ++i) {
    for (int k = 0; k < 64; ++k) in[TA ? k * 64 + i : i * 64 + k] = encode(a[i][k] = random.small());
  }
  for (int k = 0; k < 64; ++k) {
    for (int j = 0; j < N; ++j) {
      // A block of 64 columns is 64 x 64, narrower ones are in rows of the same length.
      const int at = TB ? j / 64 * 4096 + k * 64 + j % 64 : j * 64 + k;
      if (static_cast<size_t>(4096 + at) >= in.size()) in.resize(4096 + at + 1);
      in[4096 + at] = encode(b[k][j] = random.small());
    }
  }
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < N; ++j) {
      int sum = 0;
      for (int k = 0; k < 64; ++k) sum += a[i][k] * b[k][j];
      expected[i * N + j] = asBits(static_cast<float>(sum));
    }
  }
  in.resize(4096 + 64 * 256);
  expectWords(run(products<N, TA, TB, REGISTERS, F16>, in, expected.size(), 128, sizeof(Operands)), expected);
}

TEST("wgmma_bf16, operands in shared memory") {
  testProducts<64, 0, 0, false, false>();
  testProducts<64, 0, 1, false, false>();
  testProducts<64, 1, 0, false, false>();
  testProducts<64, 1, 1, false, false>();
}

TEST("wgmma_bf16, all widths") {
  testProducts<16, 0, 0, false, false>();
  testProducts<32, 0, 0, false, false>();
  testProducts<96, 0, 0, false, false>();
  testProducts<128, 0, 1, false, false>();
  testProducts<256, 0, 1, false, false>();
}

TEST("wgmma_bf16, A in registers") {
  testProducts<64, 0, 0, true, false>();
  testProducts<128, 0, 1, true, false>();
}

TEST("wgmma_f16") {
  testProducts<64, 0, 1, false, true>();
  testProducts<32, 0, 0, true, true>();
}

__global__ void __launch_bounds__(256, 1) roles(const uint32_t* in, uint32_t* out) {
  if (threadIdx.x < 128) {
    simt::set_max_registers_dec<40>();
    out[threadIdx.x] = in[threadIdx.x] + 1;
  } else {
    simt::set_max_registers_inc<120>();
    out[threadIdx.x] = in[threadIdx.x] * 3;
  }
}

TEST("set_max_registers") {
  if (!hopper()) return;
  const Words in = noise(256);
  Words expected(256);
  for (size_t i = 0; i < 256; ++i) expected[i] = i < 128 ? in[i] + 1 : in[i] * 3;
  expectWords(run(roles, in, 256, 256, 0), expected);
}

__global__ void first(uint32_t* data) {
  simt::griddep_launch();
  data[threadIdx.x] = data[threadIdx.x] * 2 + 1;
}
__global__ void second(const uint32_t* data, uint32_t* out) {
  simt::griddep_wait();
  out[threadIdx.x] = data[threadIdx.x ^ 1];
}

TEST("griddep_launch, griddep_wait") {
  const Words in = noise(64);
  DeviceArray<uint32_t> data(in), out(64);
  EXPECT_OK(simt::launch(first, dim3(1), dim3(64), 0, nullptr, data.data()));
  EXPECT_OK(simt::launch_as(simt::Launch::DEPENDENT, second, dim3(1), dim3(64), 0, nullptr, data.data(), out.data()));
  EXPECT_OK(simt::check::synchronize());
  Words expected(64);
  for (size_t i = 0; i < 64; ++i) expected[i] = in[i ^ 1] * 2 + 1;
  expectWords(out.host(), expected);
}

}  // namespace
