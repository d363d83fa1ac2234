// y = addend + scale x in float32, rounded once to y's dtype.
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kScaledPiece = 16384;

template <class A, class Y>
void scaledPiece(const ScaledSumArgs& p, int64_t begin, int64_t end) {
  const Vec scale = splat(p.scale);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = lanesLeft(i, end);
    const Vec x = get(p.x + i, n);
    const Vec y = p.addend ? fma(scale, x, get<A>(elements<A>(p.addend.data, i), n)) : scale * x;
    put<Y>(elements<Y>(p.y, i), y, n);
  }
}

}  // namespace

void scaledSum(const ScaledSumArgs& p) {
  withDType(p.addend.dtype, [&](auto a) {
    withDType(p.dtype, [&](auto y) {
      parallelFor((p.size + kScaledPiece - 1) / kScaledPiece, p.cancel, [&](int64_t task) {
        scaledPiece<decltype(a), decltype(y)>(p, task * kScaledPiece, std::min(p.size, (task + 1) * kScaledPiece));
      });
    });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
