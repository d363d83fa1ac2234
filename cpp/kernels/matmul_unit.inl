// What a packed panel consists of: float32 units, one for every step of K. Part of matmul.inl.
namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int kUnitSteps = 1;

// c + a b
RANKONE_INLINE Vec multiplyAdd(Vec a, Vec b, Vec c) { return fma(a, b, c); }

// A line along K is read in words of 32 bits, for that is what can be transposed: two steps where an element has 16.
template <class D>
constexpr int kWordSteps = 4 / sizeof(typename D::Element);

typedef float Words __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));

template <class D>
RANKONE_INLINE Vec words(const typename D::Element* p) {
  return *reinterpret_cast<const Words*>(p);
}
// Unit `index` of every word.
template <class D>
RANKONE_INLINE Vec unitsOfWords(Vec w, int index) {
  if constexpr (std::is_same_v<D, F32>)
    return w;
  else if constexpr (std::is_same_v<D, BF16>)
    return (Vec)(index ? (UVec)w & 0xffff0000u : (UVec)w << 16);
  else
    return D::widen(lowHalves(index ? (UVec)w >> 16 : (UVec)w));
}

// kLanes units of one line along K.
template <class D>
RANKONE_INLINE Vec unitsAlong(const typename D::Element* p) {
  return D::load(p);
}
// One unit of each of `lanes` lines along the side; `last`: no step follows.
template <class D>
RANKONE_INLINE Vec unitsAcross(const typename D::Element* p, int64_t, bool, int lanes) {
  return lanes == kLanes ? D::load(p) : D::loadPart(p, lanes);
}
// The same of 2 kLanes lines.
template <class D>
RANKONE_INLINE void pairAcross(const typename D::Element* p, int64_t, bool, Vec (&to)[2]) {
  to[0] = D::load(p);
  to[1] = D::load(p + kLanes);
}
// One unit of one line; the next step's element is `next` further.
template <class D>
RANKONE_INLINE float unit(const typename D::Element* p, int64_t, bool) {
  return D::one(p);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
