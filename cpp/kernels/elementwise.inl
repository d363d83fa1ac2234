// What the elementwise kernels share: vectors that may be cut short by the end of a row, and silu.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

RANKONE_INLINE int lanesLeft(int64_t i, int64_t end) { return end - i < kLanes ? static_cast<int>(end - i) : kLanes; }
RANKONE_INLINE Vec get(const float* p, int n) { return n == kLanes ? load(p) : loadPart(p, n); }
RANKONE_INLINE void put(float* p, Vec x, int n) { n == kLanes ? store(p, x) : storePart(p, x, n); }

// The same for elements of dtype D.
template <class D>
RANKONE_INLINE Vec get(const typename D::Element* p, int n) {
  return n == kLanes ? D::load(p) : D::loadPart(p, n);
}
template <class D>
RANKONE_INLINE void put(typename D::Element* p, Vec x, int n) {
  n == kLanes ? D::store(p, x) : D::storePart(p, x, n);
}

// Tensors of dtype D from element `at` on.
template <class D>
RANKONE_INLINE const typename D::Element* elements(const void* tensor, int64_t at = 0) {
  return static_cast<const typename D::Element*>(tensor) + at;
}
template <class D>
RANKONE_INLINE typename D::Element* elements(void* tensor, int64_t at = 0) {
  return static_cast<typename D::Element*>(tensor) + at;
}

// f(D, G) with the dtypes of a backward's inputs and of its gradients, which are float32 or the inputs' own.
template <class F>
RANKONE_INLINE void withGradients(DType inputs, DType gradients, F&& f) {
  withDType(
      inputs, [&](auto d) __attribute__((always_inline)) {
        if (gradients == DType::F32)
          f(d, F32{});
        else
          f(d, d);
      });
}

// A parameter [n] as float32: itself, or a copy in `scratch`, which has floatsOf() it.
inline size_t floatsOf(const void* parameter, DType dtype, int64_t n) {
  return parameter && dtype != DType::F32 ? alignFloats(static_cast<size_t>(n)) : 0;
}
inline const float* asFloats(const void* parameter, DType dtype, int64_t n, Scratch& scratch) {
  if (!parameter || dtype == DType::F32) return static_cast<const float*>(parameter);
  float* copy = scratch.take(static_cast<size_t>(n));
  widen(parameter, dtype, 0, n, copy);
  return copy;
}

RANKONE_INLINE Vec silu(Vec x) { return x * sigmoid(x); }

struct SiluAndSlope {
  Vec value, slope;
};
// 1 - sigmoid is taken as e^-x sigmoid, which keeps its digits where sigmoid is near 1. The bound keeps e^-x finite.
// Below it both are 0: the 5e-37 that is left there is no small number once it is multiplied by one of 1e38.
RANKONE_INLINE SiluAndSlope siluAndSlope(Vec x) {
  const Vec least = splat(-88.0f), bounded = atLeast(x, least);
  const Vec e = exp(-bounded);
  const Vec s = select(x < least, zero(), splat(1.0f) / (e + 1.0f));
  return {bounded * s, s * (bounded * (e * s) + 1.0f)};
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
