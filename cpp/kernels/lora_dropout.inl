// Dropout by a counter-based generator: what is dropped depends on seed, row and column alone. Part of lora.inl and
// lora_backward.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// Philox4x32-10 of Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011.
struct Philox {
  uint32_t k0, k1;

  struct Pair {
    UVec low, high;
  };
  // Both halves of every lane's product.
  static RANKONE_INLINE Pair multiply(UVec x, uint32_t m) {
#if RANKONE_LEVEL == 2
    const __m512i a = (__m512i)x, b = _mm512_set1_epi32(static_cast<int>(m));
    const __m512i even = _mm512_mul_epu32(a, b), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), b);
    return {(UVec)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)),
            (UVec)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd)};
#elif RANKONE_LEVEL == 1
    const __m256i a = (__m256i)x, b = _mm256_set1_epi32(static_cast<int>(m));
    const __m256i even = _mm256_mul_epu32(a, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
    return {(UVec)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa),
            (UVec)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa)};
#else
    Pair p;
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t product = static_cast<uint64_t>(x[i]) * m;
      p.low[i] = static_cast<uint32_t>(product);
      p.high[i] = static_cast<uint32_t>(product >> 32);
    }
    return p;
#endif
  }

  RANKONE_INLINE void operator()(UVec (&c)[4]) const {
    uint32_t a = k0, b = k1;
    for (int round = 0; round < 10; ++round) {
      const Pair p = multiply(c[0], 0xD2511F53u), q = multiply(c[2], 0xCD9E8D57u);
      c[0] = q.high ^ c[1] ^ a;
      c[1] = q.low;
      c[2] = p.high ^ c[3] ^ b;
      c[3] = p.low;
      a += 0x9E3779B9u;
      b += 0xBB67AE85u;
    }
  }
};

// keep[column] = all ones where the element stays, else 0; room for `columns` rounded up to 4 kLanes.
__attribute__((noinline)) void keepMask(double p, uint64_t seed, int64_t row, int64_t columns, uint32_t* keep) {
  const double wanted = p * 4294967296.0;
  uint64_t least = static_cast<uint64_t>(wanted);
  if (static_cast<double>(least) < wanted) ++least;
  const Philox philox{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  UVec lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<uint32_t>(i);
  for (int64_t column = 0; column < columns; column += 4 * kLanes) {
    UVec c[4] = {lane + static_cast<uint32_t>(column / 4), UVec{} + static_cast<uint32_t>(row),
                 UVec{} + static_cast<uint32_t>(static_cast<uint64_t>(row) >> 32), UVec{}};
    philox(c);
    uint32_t words[4][kLanes];
    for (int w = 0; w < 4; ++w) std::memcpy(words[w], &c[w], sizeof c[w]);
    for (int i = 0; i < kLanes; ++i)
      for (int w = 0; w < 4; ++w) keep[column + 4 * i + w] = words[w][i] >= least ? ~0u : 0u;
  }
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
