// Normal values of a seed, any of them without those before: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As
// Easy as 1, 2, 3", 2011) with counter (block, 0, stream, 0), and Box and Muller's transform of two words into two
// values. What ts/linalg/philox.ts draws: logarithm, sine and cosine are float64 here as there, exact to a few units of
// float64's last place, so that the float32 values differ about once in 10^8, then by the last bit.
#include "kernels/doubles.inl"
//
#include "kernels/philox.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

typedef int64_t LVec __attribute__((vector_size(kDoubles * 8)));
typedef uint32_t HalfUVec __attribute__((vector_size(kDoubles * 4)));

// log((u + 1/2) / 2^32) for an integer u below 2^32: with the mantissa m in [sqrt(1/2), sqrt(2)) and s = (m - 1) / (m +
// 1), |s| < 0.172, log m = 2 (s + s^3/3 + ... + s^21/21).
RANKONE_INLINE DVec logOfWord(DVec u) {
  const LVec bits = (LVec)(u + 0.5);
  // the biased exponent as a double's low bits, less 2^52, its bias and the 32 of 2^32
  DVec e = (DVec)((bits >> 52) | 0x4330000000000000ll) - (4503599627370496.0 + 1023 + 32);
  DVec m = (DVec)((bits & 0xfffffffffffffll) | 0x3ff0000000000000ll);
  const LVec large = (LVec)(m > 1.4142135623730951);
  m = large ? m * 0.5 : m;
  e = large ? e + 1.0 : e;
  const DVec s = (m - 1.0) / (m + 1.0), s2 = s * s;
  DVec p = splatDouble(1.0 / 21);
  for (double c : {1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3})
    p = fmaDoubles(p, s2, splatDouble(c));
  const DVec logM = 2.0 * fmaDoubles(p * s2, s, s);
  return fmaDoubles(e, splatDouble(0.6931471805599453), logM);
}

RANKONE_INLINE DVec rootOf(DVec x) {
#if RANKONE_LEVEL == 2
  return _mm512_sqrt_pd(x);
#elif RANKONE_LEVEL == 1
  return _mm256_sqrt_pd(x);
#else
  DVec y;
  for (int i = 0; i < kDoubles; ++i) y[i] = __builtin_sqrt(x[i]);
  return y;
#endif
}

// Cosine and sine of 2 pi w / 2^32. The quarter turn and what is left of it, at most an eighth, are exact integers.
RANKONE_INLINE void turnOfWord(HalfUVec w, DVec& cosine, DVec& sine) {
  const HalfUVec quarter = (w + (1u << 29)) >> 30;
  typedef int32_t HalfIVec __attribute__((vector_size(kDoubles * 4)));
  const DVec z = __builtin_convertvector((HalfIVec)(w - (quarter << 30)), DVec) * 1.4629180792671596e-9;
  const DVec z2 = z * z;
  DVec s = splatDouble(-1.0 / 1307674368000), c = splatDouble(1.0 / 20922789888000);
  for (double f : {1.0 / 6227020800, -1.0 / 39916800, 1.0 / 362880, -1.0 / 5040, 1.0 / 120, -1.0 / 6})
    s = fmaDoubles(s, z2, splatDouble(f));
  for (double f : {-1.0 / 87178291200, 1.0 / 479001600, -1.0 / 3628800, 1.0 / 40320, -1.0 / 720, 1.0 / 24, -0.5})
    c = fmaDoubles(c, z2, splatDouble(f));
  s = fmaDoubles(s * z2, z, z);
  c = fmaDoubles(c, z2, splatDouble(1));
  const LVec q = __builtin_convertvector(quarter, LVec);
  const LVec swapped = (q & 1) != 0;
  const LVec sign = LVec{} + std::numeric_limits<int64_t>::min();
  cosine = (DVec)((LVec)(swapped ? s : c) ^ (((q + 1) & 2) != 0 ? sign : LVec{}));
  sine = (DVec)((LVec)(swapped ? c : s) ^ ((q & 2) != 0 ? sign : LVec{}));
}

struct NormalStream {
  uint64_t seed = 0;
  uint32_t stream = 0;
  double deviation = 1;
};

// Values first, first + 1, ... of a stream; `first` is a multiple of four, below 2^34.
void drawNormals(const NormalStream& from, int64_t first, int64_t count, float* to) {
  const uint32_t key0 = static_cast<uint32_t>(from.seed), key1 = static_cast<uint32_t>(from.seed >> 32);
  UVec lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<uint32_t>(i);
  for (int64_t at = 0; at < count; at += 4 * kLanes) {
    UVec words[4] = {lanes + static_cast<uint32_t>((first + at) / 4), UVec{}, UVec{} + from.stream, UVec{}};
    philoxRounds(words, key0, key1);
    float values[4][kLanes];
    for (int pair = 0; pair < 2; ++pair) {
      HalfUVec radii[2], angles[2];
      std::memcpy(radii, &words[2 * pair], sizeof radii);
      std::memcpy(angles, &words[2 * pair + 1], sizeof angles);
      for (int half = 0; half < 2; ++half) {
        const DVec radius = rootOf(-2.0 * logOfWord(__builtin_convertvector(radii[half], DVec))) * from.deviation;
        DVec cosine, sine;
        turnOfWord(angles[half], cosine, sine);
        storeAsFloats(values[2 * pair] + half * kDoubles, radius * cosine);
        storeAsFloats(values[2 * pair + 1] + half * kDoubles, radius * sine);
      }
    }
    if (at + 4 * kLanes <= count) {
      for (int i = 0; i < kLanes; ++i)
        for (int k = 0; k < 4; ++k) to[at + 4 * i + k] = values[k][i];
    } else {
      for (int64_t i = at; i < count; ++i) to[i] = values[(i - at) % 4][(i - at) / 4];
    }
  }
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
