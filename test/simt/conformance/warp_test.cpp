// Shuffles, ballots, barriers.

#include "simt/conformance/data.h"
#include "simt/simt.cuh"

using namespace conformance;

namespace {

__global__ void shuffles(const uint32_t* in, uint32_t* out) {
  const int t = threadIdx.x;
  const uint32_t v = in[t];
  for (int i = 0; i < 40; ++i) out[i * 32 + t] = simt::shfl(v, t * 7 + i - 8);
  for (int m = 0; m < 32; ++m) out[(40 + m) * 32 + t] = simt::shfl_xor(v, m);
  for (int d = 0; d < 32; ++d) out[(72 + d) * 32 + t] = simt::shfl_up(v, d);
  for (int d = 0; d < 32; ++d) out[(104 + d) * 32 + t] = simt::shfl_down(v, d);
  const double wide = simt::shfl_xor(static_cast<double>(v), 3);
  out[136 * 32 + t] = static_cast<uint32_t>(wide);
}

TEST("shfl, shfl_xor, shfl_up, shfl_down") {
  const Words in = noise(32);
  Words expected(137 * 32);
  for (int t = 0; t < 32; ++t) {
    for (int i = 0; i < 40; ++i) expected[i * 32 + t] = in[((t * 7 + i - 8) % 32 + 32) % 32];
    for (int m = 0; m < 32; ++m) expected[(40 + m) * 32 + t] = in[t ^ m];
    for (int d = 0; d < 32; ++d) expected[(72 + d) * 32 + t] = in[t < d ? t : t - d];
    for (int d = 0; d < 32; ++d) expected[(104 + d) * 32 + t] = in[t + d > 31 ? t : t + d];
    expected[136 * 32 + t] = in[t ^ 3];
  }
  expectWords(run(shuffles, in, expected.size(), 32, 0), expected);
}

__global__ void ballots(const uint32_t* in, uint32_t* out) {
  const int t = threadIdx.x;
  for (int bit = 0; bit < 32; ++bit) out[bit * 64 + t] = simt::ballot(in[t] >> bit & 1);
}

TEST("ballot") {
  const Words in = noise(64);
  Words expected(32 * 64);
  for (int t = 0; t < 64; ++t) {
    for (int bit = 0; bit < 32; ++bit) {
      for (int lane = 0; lane < 32; ++lane) expected[bit * 64 + t] |= (in[t / 32 * 32 + lane] >> bit & 1) << lane;
    }
  }
  expectWords(run(ballots, in, expected.size(), 64, 0), expected);
}

__global__ void rounds(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<uint32_t[2][256]>();
  const int t = threadIdx.x;
  uint32_t v = in[t];
  for (int i = 0; i < 8; ++i) {
    s[i & 1][t] = v;
    simt::syncthreads();
    v = v * 3 + s[i & 1][(t * 5 + i) & 255];
  }
  out[t] = v;
}

TEST("syncthreads") {
  const Words in = noise(256);
  Words expected = in;
  for (int i = 0; i < 8; ++i) {
    const Words before = expected;
    for (int t = 0; t < 256; ++t) expected[t] = before[t] * 3 + before[(t * 5 + i) & 255];
  }
  expectWords(run(rounds, in, 256, 256, sizeof(uint32_t[2][256])), expected);
}

// The halves of a warp go their own ways, each with its mask, then meet.
__global__ void halves(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<uint32_t[32]>();
  const int t = threadIdx.x;
  uint32_t v = in[t];
  for (int i = 0; i < 4; ++i) {
    s[t] = v;
    if (t < 16) {
      simt::syncwarp(0xffffu);
      v += s[t ^ 5];
      simt::syncwarp(0xffffu);
    } else {
      simt::syncwarp(0xffff0000u);
      v += 3 * s[t ^ 9];
      simt::syncwarp(0xffff0000u);
    }
    simt::syncwarp();
    s[t] = v;
    simt::syncwarp();
    v ^= s[t ^ 16];
    simt::syncwarp();
  }
  out[t] = v;
}

TEST("syncwarp with masks") {
  const Words in = noise(32);
  Words expected = in;
  for (int i = 0; i < 4; ++i) {
    Words before = expected;
    for (int t = 0; t < 32; ++t) expected[t] += t < 16 ? before[t ^ 5] : 3 * before[t ^ 9];
    before = expected;
    for (int t = 0; t < 32; ++t) expected[t] ^= before[t ^ 16];
  }
  expectWords(run(halves, in, 32, 32, sizeof(uint32_t[32])), expected);
}

// Two groups of warps with a barrier each, and different numbers of rounds.
__global__ void groups(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<uint32_t[2][128]>();
  const int t = threadIdx.x, group = t / 64;
  uint32_t v = in[t];
  for (int i = 0; i < 4 + 3 * group; ++i) {
    s[i & 1][t] = v;
    simt::bar_sync(1 + group, 64);
    v = v * 5 + s[i & 1][t ^ (i * 9 & 63)];
  }
  out[t] = v;
}

TEST("bar_sync") {
  const Words in = noise(128);
  Words expected = in;
  for (int i = 0; i < 7; ++i) {
    const Words before = expected;
    for (int t = i < 4 ? 0 : 64; t < 128; ++t) expected[t] = before[t] * 5 + before[t ^ (i * 9 & 63)];
  }
  expectWords(run(groups, in, 128, 128, sizeof(uint32_t[2][128])), expected);
}

// Warp 0 fills a ring of two stages, warp 1 empties it; barriers 1 and 2 are full, 3 and 4 empty.
__global__ void pipes(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<uint32_t[2][32]>();
  const int t = threadIdx.x, lane = t & 31;
  uint32_t sum = 0;
  for (int i = 0; i < 32; ++i) {
    const int stage = i & 1;
    if (t < 32) {
      if (i >= 2) simt::bar_sync(3 + stage, 64);
      s[stage][lane] = in[i * 32 + lane];
      simt::bar_arrive(1 + stage, 64);
    } else {
      simt::bar_sync(1 + stage, 64);
      sum = sum * 3 + s[stage][lane ^ i];
      if (i < 30) simt::bar_arrive(3 + stage, 64);
    }
  }
  if (t >= 32) out[lane] = sum;
}

TEST("bar_arrive") {
  const Words in = noise(32 * 32);
  Words expected(32);
  for (int i = 0; i < 32; ++i) {
    for (int lane = 0; lane < 32; ++lane) expected[lane] = expected[lane] * 3 + in[i * 32 + (lane ^ i)];
  }
  expectWords(run(pipes, in, 32, 64, sizeof(uint32_t[2][32])), expected);
}

}  // namespace
