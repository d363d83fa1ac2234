// y = op(a) op(b) + bias with float32 sums.
//
// Every element is a sum over K in blocks of blockSteps(K): fused multiply-adds in ascending k inside a block, float32,
// then the blocks' sums and the bias in ascending order. Error <= (kBlockK + K / kBlockK) * 2^-24 * sum |a||b|, in
// practice about sqrt of that; a half-width y is rounded once besides. The order depends on K alone, so the bits of a
// row depend neither on the threads nor on how many rows or columns there are besides. The exception: up to kDotRows
// rows, or columns, against lines along K are dot products, summed lane by lane, for so they keep up with memory.
//
// Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), turned round: a
// slab of a is packed for all tasks and streams out of L3, every task packs its columns of b, a panel of which stays in
// L2 while the slab passes, and the next one is prefetched meanwhile. Half-width operands become float32 as they are
// packed.
#include "kernels/matmul_few.inl"

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
  if (isFew(p)) return fewMatmul(p);
  // many small products run side by side, large ones are split themselves
  const double flops = 2.0 * static_cast<double>(p.M) * static_cast<double>(p.N) * static_cast<double>(p.K * p.reduce);
  if (flops > kLargeProduct || p.batch == 1) {
    for (int64_t i = 0; i < p.batch; ++i) product(p, productOf(p, i), numThreads());
    return;
  }
  const Split split = splitWork(p.batch, static_cast<int64_t>(flops));
  parallelFor(split.tasks, p.cancel, [&](int64_t t) {
    for (int64_t i = split.begin(t); i < split.end(t); ++i) product(p, productOf(p, i), 1);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
