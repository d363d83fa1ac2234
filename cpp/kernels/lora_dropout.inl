// Dropout by a counter-based generator: what is dropped depends on seed, row and column alone. Part of lora.inl and
// lora_backward.inl.
#include "kernels/philox.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// keep[column] = all ones where the element stays, else 0; room for `columns` rounded up to 4 kLanes.
inline __attribute__((noinline)) void keepMask(double p, uint64_t seed, int64_t row, int64_t columns, uint32_t* keep) {
  const double wanted = p * 4294967296.0;
  uint64_t least = static_cast<uint64_t>(wanted);
  if (static_cast<double>(least) < wanted) ++least;
  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  UVec lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<uint32_t>(i);
  for (int64_t column = 0; column < columns; column += 4 * kLanes) {
    UVec c[4] = {lane + static_cast<uint32_t>(column / 4), UVec{} + static_cast<uint32_t>(row),
                 UVec{} + static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32), UVec{}};
    philoxRounds(c, key0, key1);
    uint32_t words[4][kLanes];
    for (int w = 0; w < 4; ++w) std::memcpy(words[w], &c[w], sizeof c[w]);
    for (int i = 0; i < kLanes; ++i)
      for (int w = 0; w < 4; ++w) keep[column + 4 * i + w] = words[w][i] >= least ? ~0u : 0u;
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
