// Columns of bases times a diagonal, and the diagonals' gradients, whose sums are float64 in ascending order and
// rounded once. Albert et al., "RandLoRA: Full-rank parameter-efficient fine-tuning of large models" (2025).
#include "kernels/doubles.inl"
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kDiagonalStripe = 512;  // columns at a time

void stripeGradients(const DiagonalGradientsArgs& p, int64_t i, int64_t begin, int64_t width, double* dLambda) {
  const float *gamma = p.gamma + i * p.in + begin, *lambda = p.lambda + i * p.rank;
  double dGamma[kDiagonalStripe] = {};
  float a[kDiagonalStripe];
  for (int64_t k = 0; k < p.rank; ++k) {
    const float* g = p.g + (i * p.rank + k) * p.in + begin;
    widen(p.a.data, p.a.dtype, ((p.shared ? 0 : i) * p.rank + k) * p.in + begin, width, a);
    const DVec l = splatDouble(lambda[k]);
    DVec sum = {};
    int64_t c = 0;
    for (; c + kDoubles <= width; c += kDoubles) {
      const DVec product = widenFloats(g + c) * widenFloats(a + c);
      sum = fmaDoubles(product, widenFloats(gamma + c), sum);
      storeDoubles(dGamma + c, fmaDoubles(l, product, loadDoubles(dGamma + c)));
    }
    dLambda[k] += sumDoubles(sum);
    for (; c < width; ++c) {
      const double product = static_cast<double>(g[c]) * a[c];
      dLambda[k] += product * gamma[c];
      dGamma[c] += lambda[k] * product;
    }
  }
  for (int64_t c = 0; c < width; ++c) p.dGamma[i * p.in + begin + c] = static_cast<float>(p.scale * dGamma[c]);
}

}  // namespace

void scaleColumns(const ScaleColumnsArgs& p) {
  if (p.columns == 0) return;
  const Split split = splitWork(p.count * p.rows, 8 * p.columns);
  parallelFor(split.tasks, p.cancel, [&](int64_t task) {
    for (int64_t row = split.begin(task); row < split.end(task); ++row) {
      const int64_t i = row / p.rows, from = p.shared ? row % p.rows : row;
      const float* factor = p.factor + i * p.columns;
      float* to = p.to + row * p.columns;
      widen(p.from.data, p.from.dtype, from * p.columns, p.columns, to);
      const float scale = static_cast<float>(p.scale);
      for (int64_t c = 0; c < p.columns; ++c) to[c] *= factor[c] * scale;
    }
  });
}

void diagonalGradients(const DiagonalGradientsArgs& p) {
  parallelFor(p.count, p.cancel, [&](int64_t i) {
    Scratch scratch(2 * static_cast<size_t>(p.rank));
    auto* dLambda = reinterpret_cast<double*>(scratch.take(2 * static_cast<size_t>(p.rank)));
    for (int64_t k = 0; k < p.rank; ++k) dLambda[k] = 0;
    for (int64_t begin = 0; begin < p.in; begin += kDiagonalStripe)
      stripeGradients(p, i, begin, std::min(kDiagonalStripe, p.in - begin), dLambda);
    for (int64_t k = 0; k < p.rank; ++k) p.dLambda[i * p.rank + k] = static_cast<float>(p.scale * dLambda[k]);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
