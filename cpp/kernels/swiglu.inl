// y = silu(gate) * up in float32, relative error below 1e-6 an element. Shazeer, "GLU Variants Improve Transformer"
// (2020).
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kPiece = 1024;  // elements; a task has several

void forward(const SwigluArgs& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = lanesLeft(i, end);
    put(p.y + i, silu(get(p.gate + i, n)) * get(p.up + i, n), n);
  }
}

void backward(const SwigluBackwardArgs& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = lanesLeft(i, end);
    const SiluAndSlope s = siluAndSlope(get(p.gate + i, n));
    const Vec dY = get(p.dY + i, n);
    put(p.dGate + i, dY * get(p.up + i, n) * s.slope, n);
    put(p.dUp + i, dY * s.value, n);
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
