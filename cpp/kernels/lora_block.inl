// The fused product of many rows: the base's panels stay in L2, made units there where they are not, while tiles of
// packed x pass. Part of lora.inl.
#include "kernels/lora_finish.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kTaskPanels = 8;                // of a task
constexpr int64_t kSlabRanks = int64_t{1} << 22;  // floats of w for all rows of a slab

// Steps of K that are added up in one chain, whole blocks of every format.
int64_t loraDepth(int64_t K) { return evenPieces(K, kBlockK, 64); }

// Rows whose x and w lie packed, for all tasks.
struct LoraSlab {
  int64_t first, tiles;
  const float *x, *w;
  int64_t xStride, wStride;  // from one tile to the next
};

// The slices of B that a tile will add. Those of adapters with more rows are at hand from the tile before. One word is
// read for good: a prefetch is dropped where the page's translation is not at hand, as with many adapters it is not.
void prefetchRanks(const LoraJob& job, int64_t tile, int64_t p) {
  forGroups(job, tile, [&](const RankGroup& g, const LoraAdapter& a) {
    if (a.bIndex || g.count == kTileRows) return;
    const uint32_t* words = a.b.panel(p);
    (void)*static_cast<const volatile uint32_t*>(words);
    for (int64_t k = 0; k < a.b.units() * kPanel; k += 16) __builtin_prefetch(words + k, 0, 3);
  });
}

// Panels [first, last) of y, tiles [begin, end) of the slab.
void productTask(const LoraJob& job, const LoraSlab& s, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const LoraArgs& args = job.p;
  const Panels* base = args.base;
  const int64_t K = base ? args.in : 0, depth = K ? loraDepth(K) : 1, tiles = end - begin;
  const bool direct = base && isDirect<kUnitSteps>(base->format);
  const int64_t expanded = base && !direct ? expandedFloats(depth, kPanel) : 0;
  const int64_t kept = K > depth ? tiles * kTileRows * kPanel : 0;
  Scratch scratch(alignFloats(expanded) + alignFloats(kept) + kTileRows * kPanel);
  float *units = scratch.take(expanded), *sums = scratch.take(kept), *local = scratch.take(kTileRows * kPanel);
  Prefetch prefetch;
  for (int64_t p = first; p < last; ++p) {
    int64_t k0 = 0;
    do {
      const int64_t steps = std::min(depth, K - k0);
      const bool isLast = k0 + steps == K;
      const float* panel = nullptr;
      if (base) {
        const uint32_t* words = base->panel(p) + k0 / panelSteps(base->format) * kPanel;
        panel = direct ? reinterpret_cast<const float*>(words) : units;
        if (!direct) expandPanel<kUnitSteps>(*base, p, k0, steps, units);
        const int64_t groups = tiles * ((unitsOf(steps) + kGroup - 1) / kGroup);
        if (!isLast)
          prefetch = prefetchWords(*base, base->panel(p) + (k0 + steps) / panelSteps(base->format) * kPanel,
                                   std::min(depth, K - k0 - steps), groups);
        else if (p + 1 < last)
          prefetch = prefetchWords(*base, base->panel(p + 1), std::min(depth, K), groups);
        else
          prefetch = {};
      }
      for (int64_t t = begin; t < end; ++t) {
        const int64_t tile = s.first + t;
        const int rows = static_cast<int>(std::min<int64_t>(kTileRows, args.rows - tile * kTileRows));
        float* of = sums + (t - begin) * kTileRows * kPanel;
        if (isLast) prefetchRanks(job, tile, p);
        if (base) {
          const SumsOut out{isLast ? local : of, kPanel, k0 ? of : nullptr};
          pickTile<kTileRows, SumsOut>(rows, kTileVecs)(
              unitsOf(steps), s.x + t * s.xStride + k0 / kUnitSteps * kTileRows, panel, kPanel, out, prefetch);
        }
        if (isLast) finishTile(job, tile, p, s.w + t * s.wStride, local);
      }
      k0 += steps;
    } while (k0 < K);
  }
}

// Slabs of rows: prepare(tile, its x, its w) for all tiles, then task(job, slab, panels, tiles) for all of y. A tile's
// x has `xStride` floats.
template <class Prepare, class Task>
void inSlabs(const LoraJob& job, int64_t xStride, Prepare&& prepare, Task&& task) {
  const LoraArgs& args = job.p;
  const int64_t wStride = job.wStride();
  int64_t most = std::max(kTaskRows, kSlabFloats / xStride * kTileRows);
  if (wStride) most = std::max<int64_t>(kTileRows, std::min(most, kSlabRanks / wStride * kTileRows));
  const int64_t slabTiles = evenPieces(args.rows, most, kTileRows) / kTileRows;
  Scratch scratch(alignFloats(slabTiles * xStride) + slabTiles * wStride);
  float *x = scratch.take(slabTiles * xStride), *w = scratch.take(slabTiles * wStride);
  const int64_t panels = (args.out + kPanel - 1) / kPanel, tiles = (args.rows + kTileRows - 1) / kTileRows;
  for (int64_t first = 0; first < tiles; first += slabTiles) {
    const LoraSlab s{first, std::min(slabTiles, tiles - first), x, w, xStride, wStride};
    const Split split = splitWork(s.tiles, 2 * kTileRows * args.in * (4 + job.ranks));
    parallelFor(split.tasks, args.cancel, [&](int64_t i) {
      for (int64_t t = split.begin(i); t < split.end(i); ++t) prepare(first + t, x + t * xStride, w + t * wStride);
    });
    const int64_t columnTasks = (panels + kTaskPanels - 1) / kTaskPanels;
    const int64_t wanted = numThreads() > 1 ? 4 * numThreads() : 1, pieces = std::max<int64_t>(1, wanted / columnTasks);
    const int64_t taskTiles = std::max(std::min(s.tiles, kTaskRows / kTileRows), (s.tiles + pieces - 1) / pieces);
    const int64_t rowTasks = (s.tiles + taskTiles - 1) / taskTiles;
    parallelFor(columnTasks * rowTasks, args.cancel, [&](int64_t i) {
      const int64_t panel = i / rowTasks * kTaskPanels, begin = i % rowTasks * taskTiles;
      task(job, s, panel, std::min(panels, panel + kTaskPanels), begin, std::min(s.tiles, begin + taskTiles));
    });
  }
}

void blockProduct(const LoraJob& job) {
  inSlabs(
      job, panelStride<kTileRows>(job.p.in), [&](int64_t tile, float* x, float* w) { prepareTile(job, tile, x, w); },
      productTask);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
