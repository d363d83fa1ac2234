// mma.sync: fragments as the PTX manual lays them out. Sums are formed in double and rounded once; a tensor core's
// order and intermediate roundings are not modelled.

#include "warp.h"

namespace simt::emulator {

namespace {

struct Fragments {
  float* d;
  const uint32_t *a, *b;
};

// Products of these operands are exact in double, so that a fused operation would give the same.
VECTORISED void multiply(const double (&a)[16][16], const double (&b)[16][8], double (&d)[16][8], int depth) {
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < depth; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
}

template <Element TYPE>
void execute(Warp& warp, void* const* arguments, uint32_t) {
  ++warp.block->worker->statistics.mma;
  double a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < WARP; ++lane) {
    const auto& mine = *static_cast<const Fragments*>(arguments[lane]);
    const int row = lane / 4, in = lane % 4;
    for (int i = 0; i < 4; ++i) d[row + i / 2 * 8][in * 2 + i % 2] = mine.d[i];
    if constexpr (TYPE == Element::TF32) {
      const auto value = [](uint32_t bits) { return static_cast<double>(f32_from_bits(bits & 0xffffe000)); };
      for (int i = 0; i < 4; ++i) a[row + i % 2 * 8][in + i / 2 * 4] = value(mine.a[i]);
      for (int i = 0; i < 2; ++i) b[in + i * 4][row] = value(mine.b[i]);
    } else {
      for (int i = 0; i < 8; ++i) {
        a[row + i / 2 % 2 * 8][in * 2 + i % 2 + i / 4 * 8] = decode(TYPE, mine.a[i / 2] >> 16 * (i % 2) & 0xffff);
      }
      for (int i = 0; i < 4; ++i) {
        b[in * 2 + i % 2 + i / 2 * 8][row] = decode(TYPE, mine.b[i / 2] >> 16 * (i % 2) & 0xffff);
      }
    }
  }
  multiply(a, b, d, TYPE == Element::TF32 ? 8 : 16);
  for (int lane = 0; lane < WARP; ++lane) {
    const auto& mine = *static_cast<const Fragments*>(arguments[lane]);
    for (int i = 0; i < 4; ++i) mine.d[i] = rounded(d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
  }
}

}  // namespace

void mma(Element type, float* d, const uint32_t* a, const uint32_t* b, Site site) {
  const Inside inside;
  Fragments mine = {d, a, b};
  meet("mma", ~0u, true, &mine,
       type == Element::BF16  ? execute<Element::BF16>
       : type == Element::F16 ? execute<Element::F16>
                              : execute<Element::TF32>,
       site);
}

}  // namespace simt::emulator
