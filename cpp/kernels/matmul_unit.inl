// What a packed panel consists of: float32 units, one for every step of K. Part of matmul.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kUnitSteps = 1;

// How narrow products read operands of dtype D.
template <class D>
using Source = D;

// c + a b
RANKONE_INLINE Vec multiplyAdd(Vec a, Vec b, Vec c) { return fma(a, b, c); }

// kLanes units of one line along K.
template <class D>
RANKONE_INLINE Vec unitsAlong(const typename D::Element* p) {
  return D::load(p);
}
// One unit of each of kLanes lines along the side; `last`: no step follows.
template <class D>
RANKONE_INLINE Vec unitsAcross(const typename D::Element* p, int64_t, bool) {
  return D::load(p);
}
// One unit of one line; the next step's element is `next` further.
template <class D>
RANKONE_INLINE float unit(const typename D::Element* p, int64_t, bool) {
  return D::one(p);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
