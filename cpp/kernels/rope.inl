// Of each head's first R elements, pairs (a, b) are turned by the angle position * frequency and multiplied by scale:
//   y_a = scale (a cos - b sin),  y_b = scale (a sin + b cos);  inversely by minus the angle; the others are copied.
// Pair i is elements i and i + R/2, or, interleaved, 2i and 2i + 1. Angles are float64, their cosines and sines are
// rounded to float32 once: the error of a pair is below 2e-7 of its length at any position that float64 can tell apart.
// Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021).
#include "kernels/doubles.inl"
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

typedef int64_t LVec __attribute__((vector_size(kDoubles * 8)));

// Above it n below has more than the 20 bits that leave its product with a constant of 33 bits exact.
constexpr double kFastAngle = 1.6e6;

// Cosines and sines of position * frequency, times scale. [R/2], rounded up
struct Turns {
  float *cosines, *sines;
};

// a = n pi/2 + r with |r| <= pi/4, the polynomials of Taylor's series to r^10 and r^9, and the quadrant from n.
RANKONE_INLINE void turnsOf(DVec a, double cosScale, double sinScale, float* cosines, float* sines) {
  const DVec magic = splatDouble(6755399441055744.0);  // 1.5 * 2^52: a sum with it ends in the bits of an integer
  const DVec shifted = a * 0.63661977236758134308 + magic, n = shifted - magic;
  const DVec r = (a - n * 1.57079632673412561417e+00) - n * 6.07710050650619224932e-11, r2 = r * r;
  DVec s = splatDouble(1.0 / 362880), c = splatDouble(-1.0 / 3628800);
  for (double k : {-1.0 / 5040, 1.0 / 120, -1.0 / 6}) s = s * r2 + k;
  for (double k : {1.0 / 40320, -1.0 / 720, 1.0 / 24, -0.5}) c = c * r2 + k;
  s = s * r2 * r + r;
  c = c * r2 + 1.0;
  const LVec quadrant = (LVec)shifted, odd = -(quadrant & 1);
  const LVec sine = (odd & (LVec)c) | (~odd & (LVec)s), cosine = (odd & (LVec)s) | (~odd & (LVec)c);
  storeAsFloats(sines, (DVec)(sine ^ ((quadrant & 2) << 62)) * sinScale);
  storeAsFloats(cosines, (DVec)(cosine ^ (((quadrant + 1) & 2) << 62)) * cosScale);
}

void fillTurns(const RopeArgs& p, int64_t position, const Turns& out) {
  const double at = static_cast<double>(position), sinScale = p.inverse ? -p.scale : p.scale;
  if (std::fabs(at) * p.largestFrequency <= kFastAngle) {
    for (int64_t i = 0; i < p.R / 2; i += kDoubles)
      turnsOf(loadDoubles(p.frequencies + i) * at, p.scale, sinScale, out.cosines + i, out.sines + i);
    return;
  }
  for (int64_t i = 0; i < p.R / 2; ++i) {
    const double angle = p.frequencies[i] * at;
    out.cosines[i] = static_cast<float>(std::cos(angle) * p.scale);
    out.sines[i] = static_cast<float>(std::sin(angle) * sinScale);
  }
}

// For interleaved pairs: y = x * wide.cosines + swapped x * wide.sines. [R] each
void widenTurns(const Turns& turns, int64_t R, const Turns& wide) {
  for (int64_t i = 0; i < R / 2; ++i) {
    wide.cosines[2 * i] = wide.cosines[2 * i + 1] = turns.cosines[i];
    wide.sines[2 * i] = -turns.sines[i];
    wide.sines[2 * i + 1] = turns.sines[i];
  }
}

RANKONE_INLINE Vec swapPairs(Vec x) {
#if RANKONE_LEVEL == 2
  return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif RANKONE_LEVEL == 1
  return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
#else
  return __builtin_shufflevector(x, x, 1, 0, 3, 2);
#endif
}

// One head. x and y may be the same: what a vector of y overwrites has been read.
template <class E, class G>
void turnHead(const typename E::Element* x, typename G::Element* y, const RopeArgs& p, const Turns& turns) {
  const int64_t half = p.R / 2;
  if (p.interleaved) {
    for (int64_t i = 0; i < p.R; i += kLanes) {
      const int n = lanesLeft(i, p.R);
      const Vec v = get<E>(x + i, n);
      put<G>(y + i, fma(swapPairs(v), get(turns.sines + i, n), v * get(turns.cosines + i, n)), n);
    }
  } else {
    for (int64_t i = 0; i < half; i += kLanes) {
      const int n = lanesLeft(i, half);
      const Vec a = get<E>(x + i, n), b = get<E>(x + half + i, n);
      const Vec c = get(turns.cosines + i, n), s = get(turns.sines + i, n);
      put<G>(y + i, fnma(b, s, a * c), n);
      put<G>(y + half + i, fma(a, s, b * c), n);
    }
  }
  if (static_cast<const void*>(x) == y) return;
  for (int64_t i = p.R; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    put<G>(y + i, get<E>(x + i, n), n);
  }
}

// The sequence of token t where they are packed: starts[n] <= t < starts[n + 1].
int64_t sequenceOf(const RopeArgs& p, int64_t t) {
  int64_t low = 0, high = p.N;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (p.starts[middle] <= t ? low : high) = middle;
  }
  return low;
}

template <class E, class G>
void turnTokens(const RopeArgs& p, int64_t begin, int64_t end) {
  const size_t half = alignFloats(static_cast<size_t>(roundUp(p.R / 2, kRopePadding)));
  const size_t whole = p.interleaved ? alignFloats(static_cast<size_t>(p.R)) : 0;
  Scratch scratch(2 * (half + whole));
  const Turns turns{scratch.take(half), scratch.take(half)};
  Turns wide = turns;
  if (whole) wide = {scratch.take(whole), scratch.take(whole)};
  int64_t sequence = p.starts ? sequenceOf(p, begin) : 0;
  for (int64_t t = begin; t < end; ++t) {
    int64_t position = p.offset;
    if (p.positions) {
      position = p.positions[t % p.positionCount];
    } else if (p.starts) {
      while (p.starts[sequence + 1] <= t) ++sequence;
      position += t - p.starts[sequence];
    } else {
      position += t % p.T;
    }
    fillTurns(p, position, turns);
    if (whole) widenTurns(turns, p.R, wide);
    for (const RopeTensor& tensor : p.tensors)
      for (int64_t h = 0; h < tensor.heads; ++h) {
        const int64_t at = (t * tensor.heads + h) * p.D;
        turnHead<E, G>(elements<E>(tensor.x, at), elements<G>(tensor.y, at), p, wide);
      }
  }
}

}  // namespace

void rope(const RopeArgs& p) {
  const int64_t heads = p.tensors[0].heads + p.tensors[1].heads;
  const Split s = splitWork(p.tokens, heads * (3 * p.R + 2 * p.D) + 20 * p.R);
  withGradients(p.dtype, p.outDType, [&](auto e, auto g) {
    parallelFor(s.tasks, p.cancel, [&](int64_t t) { turnTokens<decltype(e), decltype(g)>(p, s.begin(t), s.end(t)); });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
