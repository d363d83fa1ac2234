// What the elementwise kernels share: vectors that may be cut short by the end of a row, and silu.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

RANKONE_INLINE int lanesLeft(int64_t i, int64_t end) { return end - i < kLanes ? static_cast<int>(end - i) : kLanes; }
RANKONE_INLINE Vec get(const float* p, int n) { return n == kLanes ? load(p) : loadPart(p, n); }
RANKONE_INLINE void put(float* p, Vec x, int n) { n == kLanes ? store(p, x) : storePart(p, x, n); }

RANKONE_INLINE Vec silu(Vec x) { return x * sigmoid(x); }

struct SiluAndSlope {
  Vec value, slope;
};
// 1 - sigmoid is taken as e^-x sigmoid, which keeps its digits where sigmoid is near 1. The bound keeps e^-x finite.
RANKONE_INLINE SiluAndSlope siluAndSlope(Vec x) {
  const Vec bounded = atLeast(x, splat(-88.0f));
  const Vec e = exp(-bounded);
  const Vec s = splat(1.0f) / (e + 1.0f);
  return {x * s, s * (bounded * (e * s) + 1.0f)};
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
