// cp.async and vector loads and stores.

#include "simt/conformance/data.h"
#include "simt/simt.cuh"

using namespace conformance;

namespace {

__global__ void groups(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<uint32_t[1024]>();
  const int t = threadIdx.x;
  simt::cp_async16(s + t * 4, in + t * 4);
  simt::cp_async_commit();
  simt::cp_async16(s + 512 + t * 4, in + 512 + (127 - t) * 4);
  simt::cp_async_commit();
  simt::cp_async_wait<1>();
  simt::syncthreads();
  for (int i = t; i < 512; i += 128) out[i] = s[511 - i];
  simt::cp_async_wait<0>();
  simt::syncthreads();
  for (int i = t; i < 512; i += 128) out[512 + i] = s[512 + i];
}

TEST("cp_async16, commit, wait") {
  const Words in = noise(1024);
  Words expected(1024);
  for (int i = 0; i < 512; ++i) {
    expected[i] = in[511 - i];
    expected[512 + i] = in[512 + (127 - i / 4) * 4 + i % 4];
  }
  expectWords(run(groups, in, 1024, 128, sizeof(uint32_t[1024])), expected);
}

__global__ void partial(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<uint32_t[17 * 4 + 32]>();
  const int t = threadIdx.x;
  if (t <= 16) simt::cp_async16_zfill(s + t * 4, in + t * 4, t);
  simt::cp_async4(s + 68 + t, in + 31 - t);
  simt::cp_async_commit();
  simt::cp_async_wait<0>();
  simt::syncthreads();
  for (int i = t; i < 100; i += 32) out[i] = s[i];
}

TEST("cp_async16_zfill, cp_async4") {
  const Words in = noise(17 * 4);
  Words expected(100);
  for (int i = 0; i < 68; ++i) {
    for (int b = 0; b < 4; ++b) {
      if (i % 4 * 4 + b < i / 4) expected[i] |= in[i] & 0xffu << 8 * b;
    }
  }
  for (int i = 0; i < 32; ++i) expected[68 + i] = in[31 - i];
  expectWords(run(partial, in, 100, 32, sizeof(uint32_t[100])), expected);
}

struct Vectors {
  __align__(16) uint32_t words[128 * 4];
  __align__(16) float floats[128 * 4];
  __align__(16) float pairs[128 * 2];
  __align__(16) uint32_t wordPairs[128 * 2];
  __align__(16) uint16_t halves[128 * 2];
};

__global__ void vectors(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<Vectors>();
  const int t = threadIdx.x, o = 127 - t;
  uint32_t w[4], pair[2];
  float f[4];
  simt::ld4(w, in + t * 4);
  simt::ld4_nc(f, reinterpret_cast<const float*>(in) + t * 4);
  simt::st4(s.words + t * 4, w[3], w[2], w[1], w[0]);
  simt::st4(s.floats + t * 4, f);
  simt::st2(s.pairs + t * 2, f[1], f[0]);
  simt::st2(s.wordPairs + t * 2, w[2], w[3]);
  simt::st1x2(s.halves + t * 2, w[0]);
  simt::syncthreads();
  simt::ld4(w, s.words + o * 4);
  simt::ld4(f, s.floats + o * 4);
  float g[2];
  simt::ld2(g, s.pairs + o * 2);
  simt::ld2(pair, s.wordPairs + o * 2);
  simt::st4(out + t * 16, w[0], w[1], w[2], w[3]);
  simt::st4(reinterpret_cast<float*>(out) + t * 16 + 4, f);
  simt::st2(reinterpret_cast<float*>(out) + t * 16 + 8, g[0], g[1]);
  simt::st2(out + t * 16 + 10, pair[0], pair[1]);
  out[t * 16 + 12] = s.halves[o * 2];
  out[t * 16 + 13] = s.halves[o * 2 + 1];
  simt::ld4_nc(w, in + o * 4);
  simt::st2(out + t * 16 + 14, w[1], w[2]);
}

TEST("ld2, ld4, ld4_nc, st1x2, st2, st4") {
  Words in = noise(512);
  for (uint32_t& word : in) word &= 0x7f7fffff;  // numbers: NaNs might not keep their bits
  Words expected(128 * 16);
  for (int t = 0; t < 128; ++t) {
    const uint32_t* v = &in[(127 - t) * 4];
    const uint32_t row[16] = {v[3], v[2], v[1], v[0], v[0],          v[1],       v[2], v[3],
                              v[1], v[0], v[2], v[3], v[0] & 0xffff, v[0] >> 16, v[1], v[2]};
    std::copy(row, row + 16, &expected[t * 16]);
  }
  expectWords(run(vectors, in, expected.size(), 128, sizeof(Vectors)), expected);
}

// Blocks add to a counter; each waits until all have, and then sees what all have written.
__global__ void meets(uint32_t* counter, uint32_t* parts, uint32_t* out) {
  const int t = threadIdx.x, blocks = gridDim.x;
  parts[blockIdx.x * 32 + t] = blockIdx.x * 100 + t;
  simt::syncthreads();
  if (t == 0) {
    simt::add_release(counter, 1);
    while (simt::load_acquire(counter) < static_cast<uint32_t>(blocks)) simt::sleep(100);
  }
  simt::syncthreads();
  uint32_t sum = 0;
  for (int b = 0; b < blocks; ++b) sum = sum * 3 + parts[b * 32 + t];
  out[blockIdx.x * 32 + t] = sum;
}

TEST("add_release, load_acquire, sleep") {
  constexpr int BLOCKS = 5;
  DeviceArray<uint32_t> counter(Words(1, 0)), parts(BLOCKS * 32), out(BLOCKS * 32);
  EXPECT_OK(simt::launch_as(simt::Launch::CORESIDENT, meets, dim3(BLOCKS), dim3(32), 0, nullptr, counter.data(),
                            parts.data(), out.data()));
  EXPECT_OK(simt::check::synchronize());
  Words expected(BLOCKS * 32);
  for (int i = 0; i < BLOCKS * 32; ++i) {
    for (int b = 0; b < BLOCKS; ++b) expected[i] = expected[i] * 3 + static_cast<uint32_t>(b * 100 + i % 32);
  }
  expectWords(out.host(), expected);
  EXPECT_EQ(counter.host()[0], uint32_t(BLOCKS));
}

}  // namespace
