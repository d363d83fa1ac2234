// y = silu(gate) * up in float32, relative error below 1e-6 an element before it is rounded to its dtype. Shazeer, "GLU
// Variants Improve Transformer" (2020).
#include "kernels/elementwise.inl"
#include "kernels/rows.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kPiece = 1024;  // elements; a task has several

void forward(const SwigluArgs& p, int64_t begin, int64_t end) {
  const AnyRow gate(p.gate, p.dtype, 0), up(p.up, p.dtype, 0);
  const AnyOutput y(p.y, p.dtype, 0);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = lanesLeft(i, end);
    put(y, i, silu(get(gate, i, n)) * get(up, i, n), n);
  }
}

void backward(const SwigluBackwardArgs& p, int64_t begin, int64_t end) {
  const AnyRow gate(p.gate, p.dtype, 0), up(p.up, p.dtype, 0), dY(p.dY, p.dtype, 0);
  const AnyOutput dGate(p.dGate, p.gradDType, 0), dUp(p.dUp, p.gradDType, 0);
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = lanesLeft(i, end);
    const SiluAndSlope s = siluAndSlope(get(gate, i, n));
    const Vec d = get(dY, i, n);
    put(dGate, i, d * get(up, i, n) * s.slope, n);
    put(dUp, i, d * s.value, n);
  }
}

}  // namespace

void swiglu(const SwigluArgs& p) {
  const Split s = splitWork((p.size + kPiece - 1) / kPiece, 32 * kPiece);
  parallelFor(s.tasks, p.cancel,
              [&](int64_t t) { forward(p, s.begin(t) * kPiece, std::min(p.size, s.end(t) * kPiece)); });
}

void swigluBackward(const SwigluBackwardArgs& p) {
  const Split s = splitWork((p.size + kPiece - 1) / kPiece, 40 * kPiece);
  parallelFor(s.tasks, p.cancel,
              [&](int64_t t) { backward(p, s.begin(t) * kPiece, std::min(p.size, s.end(t) * kPiece)); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
