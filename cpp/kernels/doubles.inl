// Vectors of half as many float64 as there are float32 in a Vec, for what float32 sums would not carry.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kDoubles = kLanes / 2;

typedef double DVec __attribute__((vector_size(kDoubles * 8)));
typedef double UnalignedDVec __attribute__((vector_size(kDoubles * 8), aligned(8), may_alias));
typedef float HalfVec __attribute__((vector_size(kDoubles * 4)));
typedef float UnalignedHalfVec __attribute__((vector_size(kDoubles * 4), aligned(4), may_alias));

RANKONE_INLINE DVec loadDoubles(const double* p) { return *reinterpret_cast<const UnalignedDVec*>(p); }
RANKONE_INLINE void storeDoubles(double* p, DVec x) { *reinterpret_cast<UnalignedDVec*>(p) = x; }
RANKONE_INLINE DVec widenFloats(const float* p) {
#if RANKONE_LEVEL == 2
  return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif RANKONE_LEVEL == 1
  return _mm256_cvtps_pd(_mm_loadu_ps(p));
#else
  return __builtin_convertvector(*reinterpret_cast<const UnalignedHalfVec*>(p), DVec);
#endif
}
RANKONE_INLINE void storeAsFloats(float* p, DVec x) {
#if RANKONE_LEVEL == 2
  _mm256_storeu_ps(p, _mm512_cvtpd_ps(x));
#elif RANKONE_LEVEL == 1
  _mm_storeu_ps(p, _mm256_cvtpd_ps(x));
#else
  *reinterpret_cast<UnalignedHalfVec*>(p) = __builtin_convertvector(x, HalfVec);
#endif
}
RANKONE_INLINE DVec splatDouble(double x) { return DVec{} + x; }
RANKONE_INLINE DVec fmaDoubles(DVec a, DVec b, DVec c) {
#if RANKONE_LEVEL == 2
  return _mm512_fmadd_pd(a, b, c);
#elif RANKONE_LEVEL == 1
  return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f64(c, a, b);
#else
  return a * b + c;
#endif
}
// Always in the same order: halves onto halves.
RANKONE_INLINE double sumDoubles(DVec x) {
  double t[kDoubles];
  storeDoubles(t, x);
  for (int half = kDoubles / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) t[i] += t[i + half];
  return t[0];
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
