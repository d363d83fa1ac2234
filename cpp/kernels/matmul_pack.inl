// Packing for matmul: either operand as panels [units, W] that the micro kernel reads in order. Part of matmul.inl.
#if !defined(RANKONE_BF16_DOT)
#include "kernels/matmul_unit.inl"
#endif

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// A matrix of dtype D with a side (rows of a, columns of b) and K. Its lines, contiguous, run along one of the two.
template <class D>
struct Operand {
  const typename D::Element* data;
  int64_t ld;   // elements from one line to the next
  bool alongK;  // a line runs along K
  const typename D::Element* at(int64_t side, int64_t k) const {
    return data + (alongK ? side * ld + k : k * ld + side);
  }
};

constexpr int64_t kAhead = 6;  // steps to prefetch: the rows are too far apart for the hardware to see a pattern

constexpr int64_t unitsOf(int64_t steps) { return (steps + kUnitSteps - 1) / kUnitSteps; }

// Floats from one panel to the next: a cache line more than needed, or the panels of a step would share a cache set.
// A last vector of W < kLanes values has its excess there.
template <int W>
constexpr int64_t panelStride(int64_t steps) {
  return roundUp(W * unitsOf(steps), 16) + 16;
}

// The last steps of a panel, or a panel of fewer lines: value by value.
template <int W, class D>
void packEdge(const Operand<D>& x, int64_t side, int count, int64_t k0, int64_t begin, int64_t steps, float* dst) {
  const int64_t step = x.alongK ? x.ld : 1, next = x.alongK ? 1 : x.ld;
  for (int64_t k = begin; k < steps; k += kUnitSteps) {
    const auto* in = x.at(side, k0 + k);
    float* out = dst + k / kUnitSteps * W;
    for (int i = 0; i < count; ++i) out[i] = unit<D>(in + i * step, next, k + 1 == steps);
    for (int i = count; i < W; ++i) out[i] = 0;
  }
}

// One panel out of lines along K: squares of kLanes units, transposed. A vector that reaches past its W values is
// overwritten there by the next unit's.
template <int W, class D>
void packAcross(const Operand<D>& x, int64_t side, int count, int64_t k0, int64_t steps, float* dst) {
  constexpr int64_t kSquare = kLanes * kUnitSteps;
  int64_t k = 0;
  for (; k + kSquare <= steps; k += kSquare) {
#pragma GCC unroll 2
    for (int first = 0; first < W; first += kLanes) {
      const auto* in = x.at(side + first, k0 + k);
      float* out = dst + k / kUnitSteps * W + first;
      Vec rows[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        rows[i] = zero();
        if (first + i < count) rows[i] = unitsAlong<D>(in + i * x.ld);
      }
      transpose(rows);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(out + i * W, rows[i]);
    }
  }
  packEdge<W>(x, side, count, k0, k, steps, dst);
}

// Panels out of lines across K, as many as have room for whole vectors: every line is read once. Returns their number.
template <int W, class D>
int64_t packLines(const Operand<D>& x, int64_t side, int64_t count, int64_t k0, int64_t steps, float* dst) {
  constexpr int kWidth = (W + kLanes - 1) / kLanes * kLanes;
  const int64_t stride = panelStride<W>(steps), panels = count < kWidth ? 0 : (count - kWidth) / W + 1;
  for (int64_t k = 0; k < steps; k += kUnitSteps) {
    const auto *in = x.at(side, k0 + k), *ahead = in + (k + kAhead < steps ? kAhead : 0) * x.ld;
    float* out = dst + k / kUnitSteps * W;
    for (int64_t p = 0; p < panels; ++p, in += W, ahead += W, out += stride) {
      __builtin_prefetch(ahead);
      if constexpr (kUnitSteps > 1) __builtin_prefetch(ahead + x.ld);
#pragma GCC unroll 2
      for (int i = 0; i < kWidth; i += kLanes) store(out + i, unitsAcross<D>(in + i, x.ld, k + 1 == steps));
    }
  }
  return panels;
}

// The lines [side, side + count) as panels panelStride() apart, dst[u * W + i] = unit u of line side + i from step k0
// on in the first; lines that are missing in the last one read as zero.
template <int W, class D>
void packPanels(const Operand<D>& x, int64_t side, int64_t count, int64_t k0, int64_t steps, float* dst) {
  static_assert(W <= kLanes || W % kLanes == 0, "the excess of a last vector would land in the next unit's first");
  const int64_t stride = panelStride<W>(steps);
  int64_t p = x.alongK ? 0 : packLines<W>(x, side, count, k0, steps, dst);
  for (; p * W < count; ++p) {
    const int lines = static_cast<int>(std::min<int64_t>(W, count - p * W));
    if (x.alongK)
      packAcross<W>(x, side + p * W, lines, k0, steps, dst + p * stride);
    else
      packEdge<W>(x, side + p * W, lines, k0, 0, steps, dst + p * stride);
  }
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
