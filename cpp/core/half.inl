// Rows of any float type as float32. No include guard: part of simd.inl's instruction set, see core/foreach_isa.h.
// bf16 and f16 travel as bit patterns; both directions are exact or round to nearest even, NaN stays NaN, and the bits
// are the same on every instruction set.
namespace rankone {
namespace RANKONE_ISA_NS {

typedef uint16_t HVec __attribute__((vector_size(kLanes * 2)));
typedef uint16_t UnalignedHVec __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

RANKONE_INLINE HVec loadBits(const uint16_t* p) { return *reinterpret_cast<const UnalignedHVec*>(p); }
RANKONE_INLINE void storeBits(uint16_t* p, HVec x) { *reinterpret_cast<UnalignedHVec*>(p) = x; }
RANKONE_INLINE HVec loadBitsPart(const uint16_t* p, int n) {
#if RANKONE_LEVEL == 2
  return (HVec)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p);
#else
  uint16_t t[kLanes] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return loadBits(t);
#endif
}
RANKONE_INLINE void storeBitsPart(uint16_t* p, HVec x, int n) {
#if RANKONE_LEVEL == 2
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), (__m256i)x);
#else
  uint16_t t[kLanes];
  storeBits(t, x);
  for (int i = 0; i < n; ++i) p[i] = t[i];
#endif
}

// Zero-extended, and the low halves; gcc splits its own conversion in two.
RANKONE_INLINE UVec extend(HVec h) {
#if RANKONE_LEVEL == 2
  return (UVec)_mm512_cvtepu16_epi32((__m256i)h);
#elif RANKONE_LEVEL == 1
  return (UVec)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, UVec);
#endif
}
RANKONE_INLINE HVec lowHalves(UVec u) {
#if RANKONE_LEVEL == 2
  return (HVec)_mm512_cvtepi32_epi16((__m512i)u);
#else
  return __builtin_convertvector(u, HVec);
#endif
}

// How a kernel reads and writes elements of one dtype: load, loadPart, store, storePart of kLanes floats; one and
// putOne of a single one.
struct F32 {
  using Element = float;
  static RANKONE_INLINE Vec load(const float* p) { return RANKONE_ISA_NS::load(p); }
  static RANKONE_INLINE Vec loadPart(const float* p, int n) { return RANKONE_ISA_NS::loadPart(p, n); }
  static RANKONE_INLINE void store(float* p, Vec x) { RANKONE_ISA_NS::store(p, x); }
  static RANKONE_INLINE void storePart(float* p, Vec x, int n) { RANKONE_ISA_NS::storePart(p, x, n); }
  static RANKONE_INLINE float one(const float* p) { return *p; }
  static RANKONE_INLINE void putOne(float* p, float x) { *p = x; }
};

template <class Format>
struct HalfWidth {
  using Element = uint16_t;
  static RANKONE_INLINE Vec load(const uint16_t* p) { return Format::widen(loadBits(p)); }
  static RANKONE_INLINE Vec loadPart(const uint16_t* p, int n) { return Format::widen(loadBitsPart(p, n)); }
  static RANKONE_INLINE void store(uint16_t* p, Vec x) { storeBits(p, Format::narrow(x)); }
  static RANKONE_INLINE void storePart(uint16_t* p, Vec x, int n) { storeBitsPart(p, Format::narrow(x), n); }
  static RANKONE_INLINE float one(const uint16_t* p) { return Format::widen(HVec{*p})[0]; }
  static RANKONE_INLINE void putOne(uint16_t* p, float x) { *p = Format::narrow(splat(x))[0]; }
};

struct BF16 : HalfWidth<BF16> {
  static RANKONE_INLINE Vec widen(HVec h) { return (Vec)(extend(h) << 16); }
  static RANKONE_INLINE HVec narrow(Vec x) {
    const UVec u = (UVec)x, rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const UVec quiet = (u >> 16) | 0x40u;
    return lowHalves((UVec)((IVec)(x != x) ? (IVec)quiet : (IVec)rounded));
  }
  static RANKONE_INLINE void putOne(uint16_t* p, float x) {
    uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    *p = static_cast<uint16_t>((x != x ? u | 0x400000u : u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
};

struct F16 : HalfWidth<F16> {
  static RANKONE_INLINE Vec widen(HVec h) {
#if defined(__clang__) && RANKONE_LEVEL > 0
    // Its own conversion clang puts behind the branches that loaded h, which then carry _Float16s one by one.
    Vec x;
    asm("vcvtph2ps %1, %0" : "=v"(x) : "v"(h));
    return x;
#elif RANKONE_LEVEL == 2
    return _mm512_cvtph_ps((__m256i)h);
#elif RANKONE_LEVEL == 1
    return _mm256_cvtph_ps((__m128i)h);
#else
    const UVec u = __builtin_convertvector(h, UVec), sign = (u & 0x8000u) << 16, rest = (u & 0x7fffu) << 13;
    // 2^112 moves the exponent's bias from 15 to 127, subnormals included; infinity and NaN get theirs by hand.
    const UVec scaled = (UVec)((Vec)rest * splat(5.192296858534828e33f));
    const IVec special = (IVec)(rest >= 0x0f800000u);
    return (Vec)(sign | (UVec)(special ? (IVec)(rest | 0x7f800000u) : (IVec)scaled));
#endif
  }
  static RANKONE_INLINE HVec narrow(Vec x) {
#if RANKONE_LEVEL == 2
    return (HVec)_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif RANKONE_LEVEL == 1
    return (HVec)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const UVec u = (UVec)x, rest = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
    const UVec normal = (rest + 0xfffu + ((rest >> 13) & 1u) - 0x38000000u) >> 13;
    const UVec subnormal = (UVec)((Vec)rest + 0.5f) - 0x3f000000u;  // 0.5's last bit is the subnormals' unit
    UVec h = (UVec)((IVec)(rest < 0x38800000u) ? (IVec)subnormal : (IVec)normal);
    h = (UVec)((IVec)(rest >= 0x47800000u) ? (IVec)(UVec{} + 0x7c00u) : (IVec)h);
    h = (UVec)((IVec)(rest > 0x7f800000u) ? (IVec)(0x7e00u | ((rest >> 13) & 0x3ffu)) : (IVec)h);
    return __builtin_convertvector(h | sign, HVec);
#endif
  }
};

// The one switch over the dtypes that kernels compute with: f(F32{}), f(BF16{}) or f(F16{}).
template <class F>
RANKONE_INLINE auto withDType(DType dtype, F&& f) {
  switch (dtype) {
    case DType::BF16: return f(BF16{});
    case DType::F16: return f(F16{});
    default: return f(F32{});
  }
}

template <class D>
RANKONE_INLINE void widenElements(const typename D::Element* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, D::load(from + i));
  if (i < n) storePart(to + i, D::loadPart(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}
template <class D>
RANKONE_INLINE void narrowElements(const float* from, int64_t n, typename D::Element* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) D::store(to + i, load(from + i));
  if (i < n) D::storePart(to + i, loadPart(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

// One element of any float type.
inline float element(const FloatView& x, int64_t i) {
  return withDType(x.dtype, [&](auto d) -> float {
    using D = decltype(d);
    return D::one(static_cast<const typename D::Element*>(x.data) + i);
  });
}

// Elements first, first + stride, ... of a tensor.
inline void gather(const FloatView& x, int64_t first, int64_t stride, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = element(x, first + i * stride);
}

// n elements of a tensor, from element `at` on, to float32 and back. One function for all kernels: copied to where they
// are called, they made many of those a tenth larger.
inline __attribute__((noinline)) void widen(const void* tensor, DType dtype, int64_t at, int64_t n, float* to) {
  withDType(dtype, [&](auto d) {
    using D = decltype(d);
    widenElements<D>(static_cast<const typename D::Element*>(tensor) + at, n, to);
  });
}
inline __attribute__((noinline)) void narrow(const float* from, int64_t n, void* tensor, DType dtype, int64_t at) {
  withDType(dtype, [&](auto d) {
    using D = decltype(d);
    narrowElements<D>(from, n, static_cast<typename D::Element*>(tensor) + at);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
