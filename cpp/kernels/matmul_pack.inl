// Packing for matmul: either operand as panels [units, W] that the micro kernel reads in order. Part of matmul.inl.
#if !defined(RANKONE_BF16_DOT)
#include "kernels/matmul_unit.inl"
#endif

namespace rankone {
namespace RANKONE_ISA_NS {

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

// The same of a dtype that is looked at where values are read: what works on panels is compiled once.
struct Matrix {
  const void* data;
  DType dtype;
  int64_t ld;
  bool alongK;
  int64_t size() const { return static_cast<int64_t>(dtypeSize(dtype)); }
  const char* at(int64_t side, int64_t k) const {
    return static_cast<const char*>(data) + (alongK ? side * ld + k : k * ld + side) * size();
  }
  // The one that begins so many elements behind.
  Matrix from(int64_t elements) const {
    return {static_cast<const char*>(data) + elements * size(), dtype, ld, alongK};
  }
};

constexpr int64_t kAhead = 6;  // lines to prefetch: they are too far apart for the hardware to see a pattern

// What will be packed next, fetched into L2 or L3 while tiles are computed and panels packed: runs of cache lines,
// evenly over the groups of units and the squares. Without it the multiplications would wait for memory once in every
// panel.
struct Prefetch {
  static constexpr int64_t kLine = 64, kOne = 256;
  const char* line = nullptr;
  int64_t left = 0;           // lines of this run
  int64_t run = 0, skip = 0;  // lines of a run; bytes from the end of one to the next one's beginning
  int64_t rate = 0, due = 0;  // lines for every group, in units of 1 / kOne
};

RANKONE_INLINE void fetch(Prefetch& f) {
  for (f.due += f.rate; f.due >= Prefetch::kOne; f.due -= Prefetch::kOne) {
    __builtin_prefetch(f.line, 0, 2);
    f.line += Prefetch::kLine;
    if (--f.left == 0) {
      f.line += f.skip;
      f.left = f.run;
    }
  }
}

constexpr int64_t unitsOf(int64_t steps) { return (steps + kUnitSteps - 1) / kUnitSteps; }

// Floats from one panel to the next: a cache line more than needed, or the panels of a step would share a cache set.
// A last vector of W < kLanes values has its excess there.
template <int W>
constexpr int64_t panelStride(int64_t steps) {
  return roundUp(W * unitsOf(steps), 16) + 16;
}

// r[i] = element i of row(0), row(1), ...: simd.inl's transpose() out of shuffles inside 128 bits and of whole ones,
// for those that cross cost twice as much, four rows at a time, so that registers suffice.
template <class Row>
RANKONE_INLINE void transposeRows(Row&& row, Vec (&r)[kLanes]) {
#if RANKONE_LEVEL == 2
  typedef double Pairs __attribute__((vector_size(64)));
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const Vec x = row(i), y = row(i + 1), z = row(i + 2), w = row(i + 3);
    const Pairs a = (Pairs)_mm512_unpacklo_ps(x, y), b = (Pairs)_mm512_unpacklo_ps(z, w);
    const Pairs c = (Pairs)_mm512_unpackhi_ps(x, y), d = (Pairs)_mm512_unpackhi_ps(z, w);
    r[i] = (Vec)_mm512_unpacklo_pd(a, b);
    r[i + 1] = (Vec)_mm512_unpackhi_pd(a, b);
    r[i + 2] = (Vec)_mm512_unpacklo_pd(c, d);
    r[i + 3] = (Vec)_mm512_unpackhi_pd(c, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    const Vec c = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd), d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    r[i] = _mm512_shuffle_f32x4(a, b, 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(c, d, 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
#elif RANKONE_LEVEL == 1
  typedef double Pairs __attribute__((vector_size(32)));
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const Vec x = row(i), y = row(i + 1), z = row(i + 2), w = row(i + 3);
    const Pairs a = (Pairs)_mm256_unpacklo_ps(x, y), b = (Pairs)_mm256_unpacklo_ps(z, w);
    const Pairs c = (Pairs)_mm256_unpackhi_ps(x, y), d = (Pairs)_mm256_unpackhi_ps(z, w);
    r[i] = (Vec)_mm256_unpacklo_pd(a, b);
    r[i + 1] = (Vec)_mm256_unpackhi_pd(a, b);
    r[i + 2] = (Vec)_mm256_unpacklo_pd(c, d);
    r[i + 3] = (Vec)_mm256_unpackhi_pd(c, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vec a = r[i], b = r[i + 4];
    r[i] = _mm256_permute2f128_ps(a, b, 0x20);
    r[i + 4] = _mm256_permute2f128_ps(a, b, 0x31);
  }
#else
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; ++i) r[i] = row(i);
  transpose(r);
#endif
}

// The last steps of a panel out of lines along K: value by value.
template <int W, class D>
__attribute__((noinline)) void packEdge(const typename D::Element* in, int64_t ld, int count, int64_t begin,
                                        int64_t steps, float* dst) {
  for (int64_t k = begin; k < steps; k += kUnitSteps) {
    float* out = dst + k / kUnitSteps * W;
    for (int i = 0; i < count; ++i) out[i] = unit<D>(in + i * ld + k, 1, k + 1 == steps);
    for (int i = count; i < W; ++i) out[i] = 0;
  }
}

// A square of lines [first, first + kLanes) and as many words, transposed. Its first `skip` units are left out. A
// vector that reaches past its W values is overwritten there by the next unit's.
template <int W, bool kWhole, class D>
RANKONE_INLINE void packSquare(const typename D::Element* in, int64_t ld, int first, int count, int skip, float* out) {
  constexpr int kUnits = kWordSteps<D> / kUnitSteps;  // of a word
  Vec rows[kLanes];
  const auto line = [&](int i) __attribute__((always_inline)) {
    return first + i < W && (kWhole || first + i < count) ? words<D>(in + (first + i) * ld) : zero();
  };
  transposeRows(line, rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
#pragma GCC unroll 2
    for (int u = 0; u < kUnits; ++u)
      if (kUnits * i + u >= skip) store(out + (kUnits * i + u) * W + first, unitsOfWords<D>(rows[i], u));
}

// The last square begins as early as it must, to end with the lines: steps before k are there already.
template <int W, class D>
__attribute__((noinline)) void packLast(const typename D::Element* in, int64_t ld, int count, int64_t k, int64_t steps,
                                        float* dst) {
  const int64_t from = steps - kLanes * kWordSteps<D>;
  for (int first = 0; first < W; first += kLanes)
    packSquare<W, false, D>(in + from, ld, first, count, static_cast<int>((k - from) / kUnitSteps),
                            dst + from / kUnitSteps * W);
}

// One panel out of `count` lines along K.
template <int W, bool kWhole, class D>
__attribute__((noinline)) void packAlong(const typename D::Element* in, int64_t ld, int count, int64_t steps,
                                         float* dst, Prefetch& prefetch) {
  constexpr int64_t kSquare = kLanes * kWordSteps<D>;
  int64_t k = 0;
  for (; k + kSquare <= steps; k += kSquare)
#pragma GCC unroll 2
    for (int first = 0; first < W; first += kLanes) {
      fetch(prefetch);
      packSquare<W, kWhole, D>(in + k, ld, first, count, 0, dst + k / kUnitSteps * W);
    }
  if (k == steps) return;
  if (k == 0 || steps % kUnitSteps) return packEdge<W, D>(in, ld, count, k, steps, dst);
  packLast<W, D>(in, ld, count, k, steps, dst);
}

// Panels out of lines across K: every line is read once.
template <int W, class D>
__attribute__((noinline)) void packLines(const Operand<D>& x, int64_t side, int64_t count, int64_t k0, int64_t steps,
                                         float* dst) {
  constexpr int kWidth = (W + kLanes - 1) / kLanes * kLanes;
  const int64_t stride = panelStride<W>(steps);
  const int64_t whole = count < kWidth ? 0 : (count - kWidth) / W + 1;  // panels with room for whole vectors
  for (int64_t k = 0; k < steps; k += kUnitSteps) {
    const bool last = k + 1 == steps;
    const auto *in = x.at(side, k0 + k), *ahead = in + (k + kAhead < steps ? kAhead : 0) * x.ld;
    float* out = dst + k / kUnitSteps * W;
    for (int64_t p = 0; p < whole; ++p, in += W, ahead += W, out += stride) {
      __builtin_prefetch(ahead);
      if constexpr (kUnitSteps > 1) __builtin_prefetch(ahead + x.ld);
      if constexpr (kWidth == 2 * kLanes) {
        Vec b[2];
        pairAcross<D>(in, x.ld, last, b);
        store(out, b[0]);
        store(out + kLanes, b[1]);
      } else {
#pragma GCC unroll 2
        for (int i = 0; i < kWidth; i += kLanes) store(out + i, unitsAcross<D>(in + i, x.ld, last, kLanes));
      }
    }
    for (int64_t p = whole; p * W < count; ++p, in += W, out += stride)
      for (int i = 0; i < kWidth; i += kLanes) {
        const int64_t lanes = std::min<int64_t>(kLanes, count - p * W - i);
        store(out + i, lanes > 0 ? unitsAcross<D>(in + i, x.ld, last, static_cast<int>(lanes)) : zero());
      }
  }
}

// The lines [side, side + count) as panels panelStride() apart, dst[u * W + i] = unit u of line side + i from step k0
// on in the first. What stands for the lines that are missing in the last one is finite.
template <int W, class D>
void packPanels(const Operand<D>& x, int64_t side, int64_t count, int64_t k0, int64_t steps, float* dst,
                Prefetch& prefetch) {
  static_assert(W <= kLanes || W % kLanes == 0, "the excess of a last vector would land in the next unit's first");
  if (!x.alongK) return packLines<W>(x, side, count, k0, steps, dst);
  for (int64_t p = 0; p < count; p += W, dst += panelStride<W>(steps)) {
    const int lines = static_cast<int>(std::min<int64_t>(W, count - p));
    const auto* in = x.at(side + p, k0);
    if (lines == W)
      packAlong<W, true, D>(in, x.ld, lines, steps, dst, prefetch);
    else
      packAlong<W, false, D>(in, x.ld, lines, steps, dst, prefetch);
  }
}

template <int W>
void packPanels(const Matrix& x, int64_t side, int64_t count, int64_t k0, int64_t steps, float* dst,
                Prefetch& prefetch) {
  withDType(x.dtype, [&](auto d) {
    using D = decltype(d);
    const Operand<D> typed{static_cast<const typename D::Element*>(x.data), x.ld, x.alongK};
    packPanels<W>(typed, side, count, k0, steps, dst, prefetch);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
