// What a packed panel consists of: pairs of bf16, one for every two steps of K, the earlier one in the low half. A pair
// travels as a float whose value means nothing. Part of matmul_bf16.inl.
namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int kUnitSteps = 2;

RANKONE_INLINE Vec multiplyAdd(Vec a, Vec b, Vec c) { return dotPairs(a, b, c); }

// A line along K is read in words of 32 bits, which are the units.
template <class D>
constexpr int kWordSteps = 2;

template <class D>
RANKONE_INLINE Vec words(const typename D::Element* p) {
  if constexpr (std::is_same_v<D, BF16>)
    return (Vec)_mm512_loadu_si512(p);
  else
    return (Vec)_mm512_cvtne2ps_pbh(D::load(p + kLanes), D::load(p));
}
template <class D>
RANKONE_INLINE Vec unitsOfWords(Vec w, int) {
  return w;
}

// kLanes units of one line along K.
template <class D>
RANKONE_INLINE Vec unitsAlong(const typename D::Element* p) {
  return words<D>(p);
}

template <class D>
RANKONE_INLINE HVec roundedBits(const typename D::Element* p, int lanes) {
  if constexpr (std::is_same_v<D, BF16>)
    return lanes == kLanes ? loadBits(p) : loadBitsPart(p, lanes);
  else
    return (HVec)_mm512_cvtneps_pbh(lanes == kLanes ? D::load(p) : D::loadPart(p, lanes));
}

// One unit of each of `lanes` lines along the side, the next step's elements `next` further; `last`: no step follows.
template <class D>
RANKONE_INLINE Vec unitsAcross(const typename D::Element* p, int64_t next, bool last, int lanes) {
  const UVec low = extend(roundedBits<D>(p, lanes));
  return (Vec)(last ? low : low | extend(roundedBits<D>(p + next, lanes)) << 16);
}
// The same of 2 kLanes lines: two steps are interleaved by one permutation for every vector.
template <class D>
RANKONE_INLINE void pairAcross(const typename D::Element* p, int64_t next, bool last, Vec (&to)[2]) {
  const __m512i first = (__m512i)words<D>(p), second = last ? __m512i{} : (__m512i)words<D>(p + next);
  // word i of the first vector: column i / 2 of step i % 2, whose words are numbered from 32 on
  const __m512i order = (__m512i)(IVec{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001 + 0x200000);
  to[0] = (Vec)_mm512_permutex2var_epi16(first, order, second);
  to[1] = (Vec)_mm512_permutex2var_epi16(first, _mm512_add_epi16(order, _mm512_set1_epi16(kLanes)), second);
}
// One unit of one line.
template <class D>
RANKONE_INLINE float unit(const typename D::Element* p, int64_t next, bool last) {
  const Vec pair = {D::one(p), last ? 0.0f : D::one(p + next)};
  return ((Vec)_mm512_cvtne2ps_pbh(zero(), pair))[0];
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
