// m <- m + (1 - beta1)(g - m),  v <- beta2 v + (1 - beta2) g^2,
// p <- p (1 - lr weightDecay) - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps),  all in float32.
// Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), with the coefficients as PyTorch applies them.
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kPiece = 1024;  // elements; a task has several

template <class D>
void update(const AdamWArgs& p, int64_t begin, int64_t end) {
  const auto* grad = elements<D>(p.grad);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = lanesLeft(i, end);
    const Vec g = get<D>(grad + i, n), m0 = get(p.m + i, n);
    // From the nearer end, so that with beta1 = 0 nothing is left of m.
    const Vec step = g - m0, m = p.mRate < 0.5f ? fma(splat(p.mRate), step, m0) : fnma(splat(1 - p.mRate), step, g);
    const Vec v = fma(g * p.vRate, g, get(p.v + i, n) * p.beta2);
    put(p.m + i, m, n);
    put(p.v + i, v, n);
    const Vec ratio = m / fma(sqrt(v), splat(p.rootScale), splat(p.eps));
    put(p.param + i, fnma(splat(p.stepSize), ratio, get(p.param + i, n) * p.keep), n);
  }
}

}  // namespace

void adamW(const AdamWArgs& p) {
  const Split s = splitWork((p.size + kPiece - 1) / kPiece, 32 * kPiece);
  withDType(p.gradDType, [&](auto d) {
    parallelFor(s.tasks, p.cancel,
                [&](int64_t t) { update<decltype(d)>(p, s.begin(t) * kPiece, std::min(p.size, s.end(t) * kPiece)); });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
