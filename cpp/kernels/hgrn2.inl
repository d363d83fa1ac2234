// Float32.
namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int64_t kHgrn2Task = 1 << 14;

template <class F>
void overValues(int64_t n, const CancelFlag* cancel, F&& f) {
  parallelFor((n + kHgrn2Task - 1) / kHgrn2Task, cancel, [&](int64_t task) {
    const int64_t end = (task + 1) * kHgrn2Task < n ? (task + 1) * kHgrn2Task : n;
    for (int64_t i = task * kHgrn2Task; i < end; i += kLanes)
      f(i, static_cast<int>(end - i < kLanes ? end - i : kLanes));
  });
}

RANKONE_INLINE Vec gatesAt(const FloatView& g, int64_t i, int lanes) {
  return withDType(g.dtype, [&](auto d) -> Vec {
    using D = decltype(d);
    return D::loadPart(static_cast<const typename D::Element*>(g.data) + i, lanes);
  });
}

void hgrn2AddGateGradient(int64_t n, const FloatView& g, const float* dk, float* dg, const CancelFlag* cancel) {
  overValues(n, cancel, [&](int64_t i, int lanes) {
    const Vec x = exp(gatesAt(g, i, lanes));
    storePart(dg + i, fnma(loadPart(dk + i, lanes), x, loadPart(dg + i, lanes)), lanes);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
