// y = d * (W x) + bias + the adapters' B M phi(A x' + a), with float32 sums. See lora.h for the formula.
//
// The base's product is matmul's, on a weight that was packed once: tiles of rows in registers, units of K in ascending
// order, in blocks of loraDepth(K), whose sums are added in ascending order. Adapters ride along without another pass
// over x or y: t = A x' is computed from the same packed x, and B w is added to a tile's sums while they are in L1. The
// order of all that depends on K, ranks and a row's own adapters alone, so that a row's bits depend neither on the
// threads nor on other rows nor on how many there are.
//
// One rank costs in + out multiply-adds a row beside the base's in * out; moved are in + out words of the adapter.
#include "kernels/lora_block.inl"
#if defined(RANKONE_BF16_DOT)
#include "kernels/lora_int8.inl"
#endif

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// Few rows: bound by the base's words, which stream from memory once.
void fewProduct(const LoraJob& job) {
  const LoraArgs& args = job.p;
  const int rows = static_cast<int>(args.rows), most = streamRows(rows);
  const int64_t xFloats = panelStride<kTileRows>(args.in), panels = (args.out + kPanel - 1) / kPanel;
  Scratch scratch(alignFloats(xFloats) + job.wStride());
  float *x = scratch.take(xFloats), *w = scratch.take(job.wStride());
  prepareTile(job, 0, x, w);
  const int64_t side = args.base ? streamPanelCount(rows) : 1, groups = (panels + side - 1) / side;
  const int64_t depth = args.in ? loraDepth(args.in) : 1;
  const Split split = splitWork(groups, 8 * side * kPanel * std::max<int64_t>(args.base ? args.in : 1, 16));
  parallelFor(split.tasks, args.cancel, [&](int64_t task) {
    const int64_t sumFloats = side * most * kPanel;
    Scratch own(sumFloats);
    float* sums = own.take(sumFloats);
    for (int64_t g = split.begin(task); g < split.end(task); ++g) {
      const int64_t first = g * side, count = std::min(side, panels - first);
      if (args.base && args.in == 0) std::memset(sums, 0, static_cast<size_t>(sumFloats) * sizeof(float));
      if (args.base)
        for (int64_t k0 = 0; k0 < args.in; k0 += depth)
          withFormat(args.base->format, [&](auto f) {
            constexpr PanelFormat F = decltype(f)::value;
            const int64_t steps = std::min(depth, args.in - k0);
            if (count == side) return streamOf<F>(*args.base, first, true, rows, k0, steps, x, sums, k0 > 0);
            for (int64_t c = 0; c < count; ++c)
              streamOf<F>(*args.base, first + c, false, rows, k0, steps, x, sums + c * most * kPanel, k0 > 0);
          });
      for (int64_t c = 0; c < count; ++c) {
        if (first + c + 1 < panels) prefetchRanks(job, 0, first + c + 1);
        finishTile(job, 0, first + c, w, sums + c * most * kPanel);
      }
    }
  });
}

}  // namespace

void loraForward(const LoraArgs& args, void* y, DType yDType) {
  if (args.rows == 0) return;
  int64_t rank = 0, ranks = 0;
  if (args.slots)
    for (int64_t i = 0; i < args.rows * args.perRow; ++i) {
      if (args.slots[i] < 0) continue;
      const LoraAdapter& a = *args.adapters[args.slots[i]];
      rank = std::max(rank, a.rank);
      ranks = std::max(ranks, a.midRank);
    }
  Scratch scratch(args.bias ? args.out : 0);
  float* bias = args.bias ? scratch.take(args.out) : nullptr;
  if (bias) widen(args.bias.data, args.bias.dtype, 0, args.out, bias);
  const RankPlan plan = planRanks(args, kTileRows);
  const LoraJob job{
      args, y, yDType, bias, plan, roundUp(std::max<int64_t>(rank, 1), kPanel), std::max<int64_t>(ranks, 1)};
#if defined(RANKONE_BF16_DOT)
  if (args.int8) return int8Product(job);
#endif
  args.rows <= kStreamRows ? fewProduct(job) : blockProduct(job);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
