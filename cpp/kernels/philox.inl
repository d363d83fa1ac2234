// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) of kLanes counters at a time.
namespace rankone {
namespace RANKONE_ISA_NS {

// High words of the 64-bit products.
RANKONE_INLINE UVec multiplyHigh(UVec a, uint32_t b) {
#if RANKONE_LEVEL == 2
  const __m512i x = (__m512i)a, y = _mm512_set1_epi32(static_cast<int>(b));
  const __m512i even = _mm512_mul_epu32(x, y), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), y);
  return (UVec)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
#elif RANKONE_LEVEL == 1
  const __m256i x = (__m256i)a, y = _mm256_set1_epi32(static_cast<int>(b));
  const __m256i even = _mm256_mul_epu32(x, y), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);
  return (UVec)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
  UVec high;
  for (int i = 0; i < kLanes; ++i) high[i] = static_cast<uint32_t>(static_cast<uint64_t>(a[i]) * b >> 32);
  return high;
#endif
}

// In place: counters become words.
RANKONE_INLINE void philoxRounds(UVec (&c)[4], uint32_t key0, uint32_t key1) {
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const UVec high0 = multiplyHigh(c[0], 0xd2511f53u), high1 = multiplyHigh(c[2], 0xcd9e8d57u);
    const UVec low0 = c[0] * 0xd2511f53u, low1 = c[2] * 0xcd9e8d57u;
    c[0] = high1 ^ c[1] ^ key0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ key1;
    c[3] = low0;
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
