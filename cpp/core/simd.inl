// The vector type of one instruction set and the few operations that the kernels are written in. No include guard: see
// core/foreach_isa.h. A vector holds kLanes floats: 16 (AVX-512), 8 (AVX2), 4 (SSE2, NEON and anything else).
namespace rankone {
namespace RANKONE_ISA_NS {

#define RANKONE_INLINE inline __attribute__((always_inline))

#if RANKONE_LEVEL == 2
constexpr int kLanes = 16;
#elif RANKONE_LEVEL == 1
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IVec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t UVec __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

constexpr int64_t roundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

RANKONE_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
RANKONE_INLINE void store(float* p, Vec x) { *reinterpret_cast<UnalignedVec*>(p) = x; }
RANKONE_INLINE Vec zero() { return Vec{}; }
RANKONE_INLINE Vec splat(float x) {
#if RANKONE_LEVEL == 2
  return _mm512_set1_ps(x);
#elif RANKONE_LEVEL == 1
  return _mm256_set1_ps(x);
#else
  return Vec{x, x, x, x};
#endif
}

// The first n lanes (0 < n <= kLanes); the others read as zero and are not written.
RANKONE_INLINE Vec loadPart(const float* p, int n) {
#if RANKONE_LEVEL == 2
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  float t[kLanes] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
#endif
}
RANKONE_INLINE void storePart(float* p, Vec x, int n) {
#if RANKONE_LEVEL == 2
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), x);
#else
  float t[kLanes];
  store(t, x);
  for (int i = 0; i < n; ++i) p[i] = t[i];
#endif
}
// The same for n up to and including kLanes.
RANKONE_INLINE Vec loadUpTo(const float* p, int n) { return n == kLanes ? load(p) : loadPart(p, n); }
RANKONE_INLINE void storeUpTo(float* p, Vec x, int n) { n == kLanes ? store(p, x) : storePart(p, x, n); }

// a * b + c, rounded once where the hardware can.
RANKONE_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if RANKONE_LEVEL == 2
  return _mm512_fmadd_ps(a, b, c);
#elif RANKONE_LEVEL == 1
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}
// c - a * b
RANKONE_INLINE Vec fnma(Vec a, Vec b, Vec c) {
#if RANKONE_LEVEL == 2
  return _mm512_fnmadd_ps(a, b, c);
#elif RANKONE_LEVEL == 1
  return _mm256_fnmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmsq_f32(c, a, b);
#else
  return c - a * b;
#endif
}
// Lane by lane c ? a : b, where c comes from a comparison.
RANKONE_INLINE Vec select(IVec c, Vec a, Vec b) { return c ? a : b; }
// NaN in x stays NaN; bound must not be one.
RANKONE_INLINE Vec atLeast(Vec x, Vec bound) { return select(x < bound, bound, x); }
RANKONE_INLINE Vec atMost(Vec x, Vec bound) { return select(x > bound, bound, x); }
RANKONE_INLINE Vec abs(Vec x) { return (Vec)((IVec)x & 0x7fffffff); }
RANKONE_INLINE Vec sqrt(Vec x) {
#if RANKONE_LEVEL == 2
  return _mm512_sqrt_ps(x);
#elif RANKONE_LEVEL == 1
  return _mm256_sqrt_ps(x);
#else
  Vec y;
  for (int i = 0; i < kLanes; ++i) y[i] = __builtin_sqrtf(x[i]);
  return y;
#endif
}

// Sum over the lanes, always in the same order: halves onto halves.
RANKONE_INLINE float sum(Vec x) {
#if RANKONE_LEVEL == 2
  const __m256 h = (__m256)__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                   (__m256)__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
#elif RANKONE_LEVEL == 1
  const Vec h = x;
#endif
#if RANKONE_LEVEL >= 1
  const __m128 q = _mm256_castps256_ps128(h) + _mm256_extractf128_ps(h, 1);
  const __m128 d = q + _mm_movehl_ps(q, q);
  return d[0] + d[1];
#else
  return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}
// sum() of four vectors at about the cost of one.
RANKONE_INLINE void sums(Vec a, Vec b, Vec c, Vec d, float* out) {
#if RANKONE_LEVEL >= 1
#if RANKONE_LEVEL == 2
  const auto half = [](Vec x) __attribute__((always_inline)) {
    return (__m256)__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
           (__m256)__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  };
  const __m256 ab = _mm256_hadd_ps(half(a), half(b)), cd = _mm256_hadd_ps(half(c), half(d));
#else
  const __m256 ab = _mm256_hadd_ps(a, b), cd = _mm256_hadd_ps(c, d);
#endif
  const __m256 abcd = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
#else
  out[0] = sum(a);
  out[1] = sum(b);
  out[2] = sum(c);
  out[3] = sum(d);
#endif
}
RANKONE_INLINE float largest(Vec x) {
  float t[kLanes];
  store(t, x);
  float m = t[0];
  for (int i = 1; i < kLanes; ++i) m = t[i] > m ? t[i] : m;
  return m;
}

// x * 2^n for an integer-valued n in [-252, 252], in two exact steps.
RANKONE_INLINE Vec scaleByPowerOfTwo(Vec x, Vec n) {
  const IVec i = __builtin_convertvector(n, IVec), half = i >> 1;
  const UVec a = (UVec)half, b = (UVec)i - a;  // unsigned: what a NaN lane converts to may wrap
  return x * (Vec)((a + 127u) << 23) * (Vec)((b + 127u) << 23);
}
RANKONE_INLINE Vec roundToInteger(Vec x) {
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it leaves no fraction bits
  return (x + magic) - magic;
}

// e^(hi + lo), |lo| small against hi; relative error below 2^-23. Underflows to 0, overflows to inf, keeps NaN.
RANKONE_INLINE Vec exp(Vec hi, Vec lo) {
  const Vec x = atMost(atLeast(hi, splat(-105.0f)), splat(89.0f));
  const Vec n = roundToInteger(x * 1.44269504f);
  Vec r = fnma(n, splat(0.693145752f), x);
  r = fnma(n, splat(1.42860677e-6f), r) + lo;
  Vec p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p * r, r, r) + 1.0f;
  return scaleByPowerOfTwo(p, n);
}
RANKONE_INLINE Vec exp(Vec x) { return exp(x, zero()); }

// e^x - 1 for |x| <= 0.5, relative error 1e-7.
RANKONE_INLINE Vec expm1Small(Vec x) {
  Vec p = splat(1.0f / 362880);
  for (float c : {1.0f / 40320, 1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f})
    p = fma(p, x, splat(c));
  return fma(p * x, x, x);
}

// log(1 + e^x), relative error 2e-7: with y = e^-|x| <= 1 and s = y / (2 + y), log(1 + y) = 2 (s + s^3/3 + s^5/5 +
// ...).
RANKONE_INLINE Vec softplus(Vec x) {
  const Vec y = exp(-abs(x)), s = y / (y + 2.0f), s2 = s * s;
  Vec p = splat(1.0f / 17);
  for (float c : {1.0f / 15, 1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3}) p = fma(p, s2, splat(c));
  const Vec log1p = 2.0f * fma(p * s2, s, s);
  return select(x > 0.0f, x, select(x == x, zero(), x)) + log1p;
}

RANKONE_INLINE Vec sigmoid(Vec x) { return splat(1.0f) / (exp(-x) + 1.0f); }

// In place, rows[0..kLanes) as the rows of a square: squares of four within quarters of a vector, whose shuffles need
// neither an index nor a copy of an operand, then whole quarters. Four rows at a time, so that registers suffice.
RANKONE_INLINE void transpose(Vec (&rows)[kLanes]) {
#if RANKONE_LEVEL == 2
#define RANKONE_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define RANKONE_HIGH(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define RANKONE_LOW2(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define RANKONE_HIGH2(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define RANKONE_EVEN4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define RANKONE_ODD4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#elif RANKONE_LEVEL == 1
#define RANKONE_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define RANKONE_HIGH(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define RANKONE_LOW2(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define RANKONE_HIGH2(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define RANKONE_EVEN4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define RANKONE_ODD4(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#else
#define RANKONE_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define RANKONE_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define RANKONE_LOW2(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5)
#define RANKONE_HIGH2(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7)
#endif
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    const Vec a = RANKONE_LOW(rows[i], rows[i + 1]), b = RANKONE_LOW(rows[i + 2], rows[i + 3]);
    const Vec c = RANKONE_HIGH(rows[i], rows[i + 1]), d = RANKONE_HIGH(rows[i + 2], rows[i + 3]);
    rows[i] = RANKONE_LOW2(a, b);
    rows[i + 1] = RANKONE_HIGH2(a, b);
    rows[i + 2] = RANKONE_LOW2(c, d);
    rows[i + 3] = RANKONE_HIGH2(c, d);
  }
#if RANKONE_LEVEL == 2
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec a = RANKONE_EVEN4(rows[i], rows[i + 4]), b = RANKONE_EVEN4(rows[i + 8], rows[i + 12]);
    const Vec c = RANKONE_ODD4(rows[i], rows[i + 4]), d = RANKONE_ODD4(rows[i + 8], rows[i + 12]);
    rows[i] = RANKONE_EVEN4(a, b);
    rows[i + 4] = RANKONE_EVEN4(c, d);
    rows[i + 8] = RANKONE_ODD4(a, b);
    rows[i + 12] = RANKONE_ODD4(c, d);
  }
#elif RANKONE_LEVEL == 1
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec a = rows[i], b = rows[i + 4];
    rows[i] = RANKONE_EVEN4(a, b);
    rows[i + 4] = RANKONE_ODD4(a, b);
  }
#endif
#undef RANKONE_LOW
#undef RANKONE_HIGH
#undef RANKONE_LOW2
#undef RANKONE_HIGH2
#undef RANKONE_EVEN4
#undef RANKONE_ODD4
}

#if defined(RANKONE_BF16_DOT)
// c + a0 b0 + a1 b1, the pairs of bf16 in the words of a and b.
RANKONE_INLINE Vec dotPairs(Vec a, Vec b, Vec c) {
#if defined(__clang__)  // whose version 17 breaks off where the intrinsic is given a broadcast
  asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  return c;
#else
  return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#endif
}
#endif

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

#include "core/half.inl"
