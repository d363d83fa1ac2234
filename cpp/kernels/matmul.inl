// y = op(a) op(b) + bias in float32.
//
// Every element is a sum over K in blocks of a fixed length: fused multiply-adds in ascending k inside a block,
// float32, then the blocks' sums in ascending order. Error <= (kBlockK + K / kBlockK) * 2^-24 * sum |a||b|, in practice
// about sqrt of that. The order depends on the shape alone, so the bits do not depend on the threads. Blocking after
// Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): a slab of a is packed for all
// tasks, every task packs its columns of b, and a panel of b stays in L2 while the slab streams past.
#include "kernels/matmul_narrow.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr double kLargeProduct = 3e7;  // flops

// A sum of nothing.
void emptyProduct(const MatmulArgs& p) {
  for (int64_t row = 0; row < p.batch * p.M; ++row)
    for (int64_t n = 0; n < p.N; ++n) p.y[row * p.N + n] = p.bias ? p.bias[n] : 0.0f;
}

}  // namespace

void matmul(const MatmulArgs& p) {
  if (p.batch == 0 || p.M == 0 || p.N == 0) return;
  if (p.K == 0 || p.reduce == 0) return emptyProduct(p);
  if (isNarrow(p)) return narrowMatmul(p);
  // many small products run side by side, large ones are split themselves
  const double flops = 2.0 * static_cast<double>(p.M) * static_cast<double>(p.N) * static_cast<double>(p.K * p.reduce);
  if (flops > kLargeProduct || p.batch == 1) return products(p, 0, p.batch);
  const Split split = splitWork(p.batch, static_cast<int64_t>(flops));
  parallelFor(split.tasks, p.cancel, [&](int64_t t) { products(p, split.begin(t), split.end(t)); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
