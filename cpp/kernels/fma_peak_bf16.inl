// Independent chains of x <- x + a0 b0 + a1 b1 on pairs of bf16, all in registers, as in fma_peak.inl.
namespace rankone {
namespace RANKONE_ISA_NS {

// Runs `rounds` steps of every chain; returns how many operations that were.
double bf16Chains(int64_t rounds) {
  constexpr int kDotChains = 24;
  // The pairs (-1, 1) and (1, 1), whose dot product is 0: the compiler must not know that the chains stay where they
  // are.
  volatile int given[2] = {0x3f80bf80, 0x3f803f80};
  const Vec a = (Vec)_mm512_set1_epi32(given[0]), b = (Vec)_mm512_set1_epi32(given[1]);
  Vec x[kDotChains];
#pragma GCC unroll 24
  for (int i = 0; i < kDotChains; ++i) x[i] = splat(1.0f + static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
    for (int i = 0; i < kDotChains; ++i) x[i] = dotPairs(a, b, x[i]);
  }
  Vec total = zero();
#pragma GCC unroll 24
  for (int i = 0; i < kDotChains; ++i) total += x[i];
  given[0] = static_cast<int>(sum(total));
  return 4.0 * kLanes * kDotChains * static_cast<double>(rounds);
}

// The same of x <- x + a0 b0 + .. + a3 b3, bytes without and with a sign. gcc 12 writes every sum to memory where this
// is an intrinsic.
double int8Chains(int64_t rounds) {
  constexpr int kDotChains = 24;
  volatile int given[2] = {0x01010101, static_cast<int>(0xff01ff01)};
  const __m512i a = _mm512_set1_epi32(given[0]), b = _mm512_set1_epi32(given[1]);
  Vec x[kDotChains];
#pragma GCC unroll 24
  for (int i = 0; i < kDotChains; ++i) x[i] = splat(1.0f + static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
    for (int i = 0; i < kDotChains; ++i) asm("vpdpbusd %2, %1, %0" : "+v"(x[i]) : "v"(a), "v"(b));
  }
  Vec total = zero();
#pragma GCC unroll 24
  for (int i = 0; i < kDotChains; ++i) total += x[i];
  given[0] = static_cast<int>(sum(total));
  return 8.0 * kLanes * kDotChains * static_cast<double>(rounds);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
