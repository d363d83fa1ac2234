// What a packed panel consists of: pairs of bf16, one for every two steps of K, the earlier one in the low half. A pair
// travels as a float whose value means nothing. Part of matmul_bf16.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kUnitSteps = 2;

// How narrow products read operands of dtype D: rounded, and then as float32.
template <class D>
struct Rounded {
  using Element = typename D::Element;
  static RANKONE_INLINE Vec round(Vec x) { return BF16::widen((HVec)_mm512_cvtneps_pbh(x)); }
  static RANKONE_INLINE Vec load(const Element* p) { return round(D::load(p)); }
  static RANKONE_INLINE Vec loadPart(const Element* p, int n) { return round(D::loadPart(p, n)); }
  static RANKONE_INLINE float one(const Element* p) { return round(splat(D::one(p)))[0]; }
};
template <class D>
using Source = Rounded<D>;

RANKONE_INLINE Vec multiplyAdd(Vec a, Vec b, Vec c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }

template <class D>
RANKONE_INLINE HVec roundedBits(const typename D::Element* p) {
  if constexpr (std::is_same_v<D, BF16>)
    return loadBits(p);
  else
    return (HVec)_mm512_cvtneps_pbh(D::load(p));
}

template <class D>
RANKONE_INLINE Vec unitsAlong(const typename D::Element* p) {
  if constexpr (std::is_same_v<D, BF16>)
    return (Vec)_mm512_loadu_si512(p);
  else
    return (Vec)_mm512_cvtne2ps_pbh(D::load(p + kLanes), D::load(p));
}

template <class D>
RANKONE_INLINE Vec unitsAcross(const typename D::Element* p, int64_t next, bool last) {
  const UVec low = extend(roundedBits<D>(p));
  return (Vec)(last ? low : low | extend(roundedBits<D>(p + next)) << 16);
}

template <class D>
RANKONE_INLINE float unit(const typename D::Element* p, int64_t next, bool last) {
  const Vec pair = {D::one(p), last ? 0.0f : D::one(p + next)};
  return ((Vec)_mm512_cvtne2ps_pbh(zero(), pair))[0];
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
