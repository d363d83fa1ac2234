// ldmatrix, stmatrix, mma: which lane holds which element.

#include "simt/conformance/data.h"
#include "simt/simt.cuh"

using namespace conformance;

namespace {

constexpr int ROUNDS = 8;

// Every lane names a row of its own, anywhere.
SIMT_HOST_DEV int rowOf(int lane, int round) {
  return ((lane * 5 + round * 11) & 63) * 64 + ((lane * 3 + round) & 7) * 8;
}

template <int COUNT, bool TRANSPOSED>
__global__ void loads(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<uint16_t[4096]>();
  const int t = threadIdx.x;
  for (int i = t; i < 4096; i += 32) s[i] = static_cast<uint16_t>(in[i]);
  simt::syncwarp();
  for (int round = 0; round < ROUNDS; ++round) {
    uint32_t r[4] = {};
    const uint16_t* p = s + rowOf(t, round);
    if constexpr (COUNT == 4) {
      if (TRANSPOSED) {
        simt::ldmatrix_x4_trans(r, p);
      } else {
        simt::ldmatrix_x4(r, p);
      }
    } else {
      uint32_t two[2];
      if (TRANSPOSED) {
        simt::ldmatrix_x2_trans(two, p);
      } else {
        simt::ldmatrix_x2(two, p);
      }
      r[0] = two[0];
      r[1] = two[1];
    }
    for (int k = 0; k < 4; ++k) out[(round * 4 + k) * 32 + t] = r[k];
  }
}

// Register k of lane l holds elements (l / 4, l % 4 * 2) and the next of matrix k, whose rows lanes 8k to 8k + 7 name.
template <int COUNT, bool TRANSPOSED>
void testLoads() {
  const Words in = noise(4096);
  Words expected(ROUNDS * 4 * 32);
  for (int round = 0; round < ROUNDS; ++round) {
    for (int k = 0; k < COUNT; ++k) {
      for (int lane = 0; lane < 32; ++lane) {
        uint32_t pair = 0;
        for (int e = 0; e < 2; ++e) {
          const int row = lane / 4, column = lane % 4 * 2 + e;
          const int from = TRANSPOSED ? rowOf(8 * k + column, round) + row : rowOf(8 * k + row, round) + column;
          pair |= (in[from] & 0xffff) << 16 * e;
        }
        expected[(round * 4 + k) * 32 + lane] = pair;
      }
    }
  }
  expectWords(run(loads<COUNT, TRANSPOSED>, in, expected.size(), 32, sizeof(uint16_t[4096])), expected);
}

TEST("ldmatrix_x4") { testLoads<4, false>(); }
TEST("ldmatrix_x4_trans") { testLoads<4, true>(); }
TEST("ldmatrix_x2") { testLoads<2, false>(); }
TEST("ldmatrix_x2_trans") { testLoads<2, true>(); }

template <bool TRANSPOSED>
__global__ void stores(const uint32_t* in, uint32_t* out) {
  auto& s = simt::shared<uint32_t[32 * 4]>();
  const int t = threadIdx.x;
  const uint32_t r[4] = {in[t], in[32 + t], in[64 + t], in[96 + t]};
  uint32_t* row = s + (t * 7 & 31) * 4;
  if (TRANSPOSED) {
    simt::stmatrix_x4_trans(row, r);
  } else {
    simt::stmatrix_x4(row, r);
  }
  simt::syncwarp();
  for (int i = t; i < 128; i += 32) out[i] = s[i];
}

template <bool TRANSPOSED>
void testStores() {
  if (simt::check::capability() < 90) return;
  const Words in = noise(128);
  Words expected(128);
  for (int k = 0; k < 4; ++k) {
    for (int row = 0; row < 8; ++row) {
      for (int column = 0; column < 8; ++column) {
        const int i = TRANSPOSED ? column : row, j = TRANSPOSED ? row : column;
        const uint32_t element = in[k * 32 + i * 4 + j / 2] >> 16 * (j % 2) & 0xffff;
        expected[((8 * k + row) * 7 & 31) * 4 + column / 2] |= element << 16 * (column % 2);
      }
    }
  }
  expectWords(run(stores<TRANSPOSED>, in, 128, 32, sizeof(uint32_t[128])), expected);
}

TEST("stmatrix_x4") { testStores<false>(); }
TEST("stmatrix_x4_trans") { testStores<true>(); }

enum class Type { BF16, F16, TF32 };

template <Type TYPE>
__global__ void products(const uint32_t* in, uint32_t* out) {
  const int t = threadIdx.x;
  for (int round = 0; round < ROUNDS; ++round) {
    const uint32_t* p = in + (round * 32 + t) * 10;
    const uint32_t a[4] = {p[0], p[1], p[2], p[3]};
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = simt::f32_from_bits(p[6 + i]);
    if (TYPE == Type::BF16) simt::mma_bf16(d, a, p[4], p[5]);
    if (TYPE == Type::F16) simt::mma_f16(d, a, p[4], p[5]);
    if (TYPE == Type::TF32) simt::mma_tf32(d, a, p[4], p[5]);
    for (int i = 0; i < 4; ++i) out[(round * 32 + t) * 4 + i] = simt::f32_bits(d[i]);
  }
}

// From matrices of small integers to fragments, by the manual's figures, read the other way round than the emulator
// does.
template <Type TYPE>
void testProducts() {
  constexpr int K = TYPE == Type::TF32 ? 8 : 16;
  Random random(5);
  Words in(ROUNDS * 32 * 10), expected(ROUNDS * 32 * 4);
  for (int round = 0; round < ROUNDS; ++round) {
    int a[16][16], b[16][8], c[16][8];
    uint32_t* fragments = &in[round * 320];
    const auto encode = [](int x) -> uint32_t {
      // The low bits of a tf32 operand do not count.
      return TYPE == Type::TF32  ? asBits(static_cast<float>(x)) | 0xfff
             : TYPE == Type::F16 ? smallF16(x)
                                 : smallBf16(x);
    };
    for (int i = 0; i < 16; ++i) {
      for (int k = 0; k < K; ++k) {
        a[i][k] = random.small();
        if (TYPE == Type::TF32) {
          fragments[(i % 8 * 4 + k % 4) * 10 + k / 4 * 2 + i / 8] = encode(a[i][k]);
        } else {
          fragments[(i % 8 * 4 + k % 8 / 2) * 10 + k / 8 * 2 + i / 8] |= encode(a[i][k]) << 16 * (k % 2);
        }
      }
    }
    for (int k = 0; k < K; ++k) {
      for (int j = 0; j < 8; ++j) {
        b[k][j] = random.small();
        if (TYPE == Type::TF32) {
          fragments[(j * 4 + k % 4) * 10 + 4 + k / 4] = encode(b[k][j]);
        } else {
          fragments[(j * 4 + k % 8 / 2) * 10 + 4 + k / 8] |= encode(b[k][j]) << 16 * (k % 2);
        }
      }
    }
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        const int lane = i % 8 * 4 + j / 2, element = i / 8 * 2 + j % 2;
        c[i][j] = random.small() * 16;
        fragments[lane * 10 + 6 + element] = asBits(static_cast<float>(c[i][j]));
        for (int k = 0; k < K; ++k) c[i][j] += a[i][k] * b[k][j];
        expected[(round * 32 + lane) * 4 + element] = asBits(static_cast<float>(c[i][j]));
      }
    }
  }
  expectWords(run(products<TYPE>, in, expected.size(), 32, 0), expected);
}

TEST("mma_bf16") { testProducts<Type::BF16>(); }
TEST("mma_f16") { testProducts<Type::F16>(); }
TEST("mma_tf32") { testProducts<Type::TF32>(); }

// One real product a row and column: no sum whose order could matter.
TEST("mma_bf16 of subnormal and large operands") {
  Words in(ROUNDS * 32 * 10), expected(ROUNDS * 32 * 4);
  const uint16_t values[] = {0x0001, 0x8001, 0x007f, 0x0080, 0x5f7f, 0x3f80, 0xbf81, 0x0000};
  for (int round = 0; round < ROUNDS; ++round) {
    for (int i = 0; i < 16; ++i) {
      const uint16_t a = values[(i + round) % 8];
      in[(round * 32 + i % 8 * 4) * 10 + i / 8] = a;  // column 0
      for (int j = 0; j < 8; ++j) {
        // Powers of two, so that the product is exact.
        const uint16_t b = static_cast<uint16_t>((127 + 10 * j) << 7);
        in[(round * 32 + j * 4) * 10 + 4] = b;  // row 0
        const double product = double(asFloat(uint32_t(a) << 16)) * asFloat(uint32_t(b) << 16);
        expected[(round * 32 + i % 8 * 4 + j / 2) * 4 + i / 8 * 2 + j % 2] = asBits(static_cast<float>(product) + 0.0f);
      }
    }
  }
  expectWords(run(products<Type::BF16>, in, expected.size(), 32, 0), expected);
}

}  // namespace
