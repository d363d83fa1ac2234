// y = silu(gate) * up in float32, relative error below 1e-6 an element before it is rounded to its dtype. Shazeer, "GLU
// Variants Improve Transformer" (2020).
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kPiece = 1024;  // elements; a task has several

template <class D>
void forward(const SwigluArgs& p, int64_t begin, int64_t end) {
  const auto *gate = elements<D>(p.gate), *up = elements<D>(p.up);
  auto* y = elements<D>(p.y);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = lanesLeft(i, end);
    put<D>(y + i, silu(get<D>(gate + i, n)) * get<D>(up + i, n), n);
  }
}

template <class D, class G>
void backward(const SwigluBackwardArgs& p, int64_t begin, int64_t end) {
  const auto *gate = elements<D>(p.gate), *up = elements<D>(p.up), *dY = elements<D>(p.dY);
  auto *dGate = elements<G>(p.dGate), *dUp = elements<G>(p.dUp);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = lanesLeft(i, end);
    const SiluAndSlope s = siluAndSlope(get<D>(gate + i, n));
    const Vec d = get<D>(dY + i, n);
    put<G>(dGate + i, d * get<D>(up + i, n) * s.slope, n);
    put<G>(dUp + i, d * s.value, n);
  }
}

}  // namespace

void swiglu(const SwigluArgs& p) {
  const Split s = splitWork((p.size + kPiece - 1) / kPiece, 32 * kPiece);
  withDType(p.dtype, [&](auto d) {
    parallelFor(s.tasks, p.cancel,
                [&](int64_t t) { forward<decltype(d)>(p, s.begin(t) * kPiece, std::min(p.size, s.end(t) * kPiece)); });
  });
}

void swigluBackward(const SwigluBackwardArgs& p) {
  const Split s = splitWork((p.size + kPiece - 1) / kPiece, 40 * kPiece);
  withGradients(p.dtype, p.gradDType, [&](auto d, auto g) {
    parallelFor(s.tasks, p.cancel, [&](int64_t t) {
      backward<decltype(d), decltype(g)>(p, s.begin(t) * kPiece, std::min(p.size, s.end(t) * kPiece));
    });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
