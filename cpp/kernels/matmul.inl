// y = op(a) op(b) + bias with float32 sums.
//
// Every element is a sum over K in blocks of a fixed length: fused multiply-adds in ascending k inside a block,
// float32, then the blocks' sums in ascending order. Error <= (kBlockK + K / kBlockK) * 2^-24 * sum |a||b|, in practice
// about sqrt of that; a half-width y is rounded once besides. The order depends on the shape alone, so the bits do not
// depend on the threads. Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication"
// (2008): a slab of a is packed for all tasks, every task packs its columns of b, and a panel of b stays in L2 while
// the slab streams past. Half-width operands become float32 as they are packed.
#include "kernels/matmul_narrow.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr double kLargeProduct = 3e7;  // flops

// A sum of nothing.
void emptyProduct(const MatmulArgs& p) {
  Scratch scratch(p.bias ? 0 : p.N);
  const float* row = static_cast<const float*>(p.bias);
  if (!row) row = static_cast<float*>(std::memset(scratch.take(p.N), 0, static_cast<size_t>(p.N) * sizeof(float)));
  for (int64_t i = 0; i < p.batch * p.M; ++i) narrow(row, p.N, p.y, p.yDType, i * p.N);
}

template <class D>
void multiplyAll(const MatmulArgs& p) {
  if (isNarrow<D>(p)) {
#if defined(RANKONE_BF16_DOT)
    if (std::is_same_v<D, BF16>) return avx512::matmul(p);  // nothing left to round
#endif
    return narrowMatmul<Source<D>>(p);
  }
  // many small products run side by side, large ones are split themselves
  const double flops = 2.0 * static_cast<double>(p.M) * static_cast<double>(p.N) * static_cast<double>(p.K * p.reduce);
  if (flops > kLargeProduct || p.batch == 1) return products<D>(p, 0, p.batch);
  const Split split = splitWork(p.batch, static_cast<int64_t>(flops));
  parallelFor(split.tasks, p.cancel, [&](int64_t t) { products<D>(p, split.begin(t), split.end(t)); });
}

}  // namespace

void matmul(const MatmulArgs& args) {
  if (args.batch == 0 || args.M == 0 || args.N == 0) return;
  MatmulArgs p = args;
  const bool wideBias = p.bias && p.biasDType != DType::F32;
  Scratch scratch(wideBias ? p.N : 0);
  if (wideBias) {
    float* bias = scratch.take(p.N);
    widen(args.bias, args.biasDType, 0, p.N, bias);
    p.bias = bias;
    p.biasDType = DType::F32;
  }
  if (p.K == 0 || p.reduce == 0) return emptyProduct(p);
  switch (p.dtype) {
    case DType::BF16: return multiplyAll<BF16>(p);
    case DType::F16: return multiplyAll<F16>(p);
    default: return multiplyAll<F32>(p);
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
