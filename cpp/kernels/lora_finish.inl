// From the base product's sums of a tile to y, while they are in L1: scales, bias, the adapters' second products. Part
// of lora.inl.
#include "kernels/lora_shrink.inl"
//
#include "kernels/lora_rank.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kApart = 4;  // rows with an adapter of their own that are added side by side

// A call with what its parts share.
struct LoraJob {
  const LoraArgs& p;
  void* y;
  DType yDType;
  const float* bias;  // float32, or null
  const RankPlan& plan;
  int64_t tLd;                                                                    // floats of a row's t: whole panels
  int64_t ranks;                                                                  // floats of a row's w
  int64_t wStride() const { return p.slots ? p.perRow * kTileRows * ranks : 0; }  // of a tile
};

// A tile's groups: visit(group, its adapter).
template <class Visit>
RANKONE_INLINE void forGroups(const LoraJob& job, int64_t tile, Visit&& visit) {
  for (int64_t k = job.plan.begin[tile]; k < job.plan.begin[tile + 1]; ++k)
    visit(job.plan.groups[k], *job.p.adapters[job.plan.groups[k].slot]);
}

RANKONE_INLINE float gateOf(const LoraJob& job, int64_t tile, const RankGroup& g, int i) {
  return job.p.gates ? job.p.gates[(tile * kTileRows + g.row[i]) * job.p.perRow + g.place[i]] : 1.0f;
}

// x of a tile as packed units, and w of its groups' rows, `ranks` apart.
inline void prepareTile(const LoraJob& job, int64_t tile, float* packed, float* w) {
  const LoraArgs& p = job.p;
  const int64_t row = tile * kTileRows;
  const int rows = static_cast<int>(std::min<int64_t>(kTileRows, p.rows - row));
  packTile({p.x, p.dtype, p.in, true}, row, rows, 0, p.in, packed);
  if (!p.slots) return;
  const int64_t floats = panelStride<kTileRows>(p.in), columns = roundUp(p.in, 4 * kLanes);
  const int64_t tFloats = p.perRow * kTileRows * job.tLd, most = std::max(job.tLd, job.ranks);
  Scratch scratch(alignFloats(tFloats) + alignFloats(2 * most) +
                  (p.dropout > 0 ? alignFloats(floats) + alignFloats(columns) : 0));
  float *t = scratch.take(tFloats), *finish = scratch.take(2 * most);
  const float* seen = packed;
  if (p.dropout > 0) {
    float* dropped = scratch.take(floats);
    std::memcpy(dropped, packed, static_cast<size_t>(unitsOf(p.in) * kTileRows) * sizeof(float));
    dropOut(p, row, rows, dropped, reinterpret_cast<uint32_t*>(scratch.take(columns)));
    seen = dropped;
  }
  // panels side by side: where there is one tile, other threads help
  parallelFor(job.tLd / kLanes, p.cancel, [&](int64_t panel) {
    Scratch own(shrinkScratch());
    float* expanded = own.take(shrinkScratch());
    forGroups(job, tile, [&](const RankGroup& g, const LoraAdapter& a) {
      float* to = t + g.first * job.tLd;
      if (!a.aIndex) {
        if (panel < a.a.count()) shrinkPanel(a.a, panel, g, seen, to, job.tLd, expanded);
      } else if (panel == 0) {
        gatherRanks(a, g, seen, to, job.tLd);
      }
    });
  });
  const float kept = static_cast<float>(1 / (1 - p.dropout));
  if (p.t)
    std::memset(p.t + row * p.perRow * p.tRanks, 0, static_cast<size_t>(rows * p.perRow * p.tRanks) * sizeof(float));
  forGroups(job, tile, [&](const RankGroup& g, const LoraAdapter& a) {
    for (int i = 0; i < g.count; ++i) {
      float* of = t + (g.first + i) * job.tLd;
      if (p.dropout > 0)
        for (int64_t r = 0; r < a.rank; ++r) of[r] *= kept;
      if (p.t)
        std::memcpy(p.t + ((row + g.row[i]) * p.perRow + g.place[i]) * p.tRanks, of,
                    static_cast<size_t>(a.rank) * sizeof(float));
      finishRanks(a, of, gateOf(job, tile, g, i) * a.scale, w + (g.first + i) * job.ranks, finish);
    }
  });
}

// Rows whose sums B w is added to: w[i] has its ranks, words[i] its adapter's panel of B (words[0] all of them where
// kShared). Ranks [begin, end) in ascending order, one by one; begin is a word's first.
template <PanelFormat F, int MR, bool kShared>
__attribute__((noinline)) void addRanks(int64_t begin, int64_t end, const float* const* w, const uint32_t* const* words,
                                        float* const* sums) {
  const Expand<F, 1> expand(F);
  constexpr int kSteps = panelSteps(F), B = kShared ? 1 : MR;
  Vec acc[MR][kTileVecs];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) acc[i][v] = load(sums[i] + v * kLanes);
  const auto step = [&](int64_t r, int s) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int k = 0; k < B; ++k) {
      Vec b[kTileVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) {
        const UVec word[1] = {loadWords(words[k] + r / kSteps * kPanel + v * kLanes)};
        b[v] = expand.unit(word, zero(), s);
      }
#pragma GCC unroll 16
      for (int i = k; i < (kShared ? MR : k + 1); ++i) {
        const Vec a = broadcast(w[i] + r + s);
#pragma GCC unroll 2
        for (int v = 0; v < kTileVecs; ++v) acc[i][v] = fma(a, b[v], acc[i][v]);
      }
    }
  };
  int64_t r = begin;
  for (; r + kSteps <= end; r += kSteps)
#pragma GCC unroll 2
    for (int s = 0; s < kSteps; ++s) step(r, s);
  if (r < end) step(r, 0);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) store(sums[i] + v * kLanes, acc[i][v]);
}

using AddRanks = void (*)(int64_t, int64_t, const float* const*, const uint32_t* const*, float* const*);

template <PanelFormat F, int MR>
AddRanks pickAddRanks(int rows) {
  if constexpr (MR > 1)
    if (rows < MR) return pickAddRanks<F, MR - 1>(rows);
  return addRanks<F, MR, true>;
}
AddRanks pickAddRanks(PanelFormat format, int rows) {
  switch (format) {
    case PanelFormat::BF16: return pickAddRanks<PanelFormat::BF16, kTileRows>(rows);
    case PanelFormat::F16: return pickAddRanks<PanelFormat::F16, kTileRows>(rows);
    default: return pickAddRanks<PanelFormat::F32, kTileRows>(rows);
  }
}
AddRanks pickAddApart(PanelFormat format) {
  switch (format) {
    case PanelFormat::BF16: return addRanks<PanelFormat::BF16, kApart, false>;
    case PanelFormat::F16: return addRanks<PanelFormat::F16, kApart, false>;
    default: return addRanks<PanelFormat::F32, kApart, false>;
  }
}

// Rows with an adapter of their own, gathered until kApart of them can be added side by side.
struct Alone {
  const LoraAdapter* adapter[kApart];
  const float* w[kApart];
  const uint32_t* words[kApart];
  float* sums[kApart];
  int count = 0;

  void flush() {
    bool together = count == kApart;
    for (int k = 1; k < count; ++k) together = together && adapter[k]->b.format == adapter[0]->b.format;
    int64_t common = 0;
    if (together) {
      common = adapter[0]->midRank;
      for (int k = 1; k < count; ++k) common = std::min(common, adapter[k]->midRank);
      const bool same = std::all_of(adapter, adapter + count, [&](auto* a) { return a->midRank == common; });
      if (!same) common -= common % 2;  // the others go on at a word's beginning
      pickAddApart(adapter[0]->b.format)(0, common, w, words, sums);
    }
    for (int k = 0; k < count; ++k)
      if (common < adapter[k]->midRank)
        pickAddRanks(adapter[k]->b.format, 1)(common, adapter[k]->midRank, w + k, words + k, sums + k);
    count = 0;
  }
  void add(const LoraAdapter& a, int64_t p, const float* ofRow, float* to) {
    for (int k = 0; k < count; ++k)
      if (sums[k] == to) {
        flush();
        break;
      }
    adapter[count] = &a;
    w[count] = ofRow;
    words[count] = a.b.panel(p);
    sums[count] = to;
    if (++count == kApart) flush();
  }
};

// y[bIndex[r]] += w[r], of the columns [n0, n1).
void scatterRanks(const LoraAdapter& a, const float* w, int64_t n0, int64_t n1, float* sums) {
  const int32_t *order = a.bOrder, *last = order + a.midRank;
  const int32_t* k = std::lower_bound(order, last, n0, [&](int32_t r, int64_t n) { return a.bIndex[r] < n; });
  for (; k < last && a.bIndex[*k] < n1; ++k) sums[a.bIndex[*k] - n0] += w[*k];
}

// The adapters of a tile's rows.
void addAdapters(const LoraJob& job, int64_t tile, int64_t p, const float* w, float* sums) {
  const int64_t n0 = p * kPanel, n1 = std::min(job.p.out, n0 + kPanel);
  Alone alone;
  forGroups(job, tile, [&](const RankGroup& g, const LoraAdapter& a) {
    const float* of[kTileRows];
    float* to[kTileRows];
    for (int i = 0; i < g.count; ++i) {
      of[i] = w + (g.first + i) * job.ranks;
      to[i] = sums + g.row[i] * kPanel;
    }
    if (g.count == 1 && !a.bIndex && !a.outBias) return alone.add(a, p, of[0], to[0]);
    alone.flush();  // a row's adapters are added one after the other
    if (a.bIndex) {
      for (int i = 0; i < g.count; ++i) scatterRanks(a, of[i], n0, n1, to[i]);
    } else {
      const uint32_t* words = a.b.panel(p);
      pickAddRanks(a.b.format, g.count)(0, a.midRank, of, &words, to);
    }
    if (!a.outBias) return;
    for (int i = 0; i < g.count; ++i) {
      const float factor = gateOf(job, tile, g, i) * a.scale;
      for (int64_t n = n0; n < n1; ++n) to[i][n - n0] += factor * a.outBias[n];
    }
  });
  alone.flush();
}

// Columns of panel p of y, from the base's sums [rows, kPanel].
inline __attribute__((noinline)) void finishTile(const LoraJob& job, int64_t tile, int64_t p, const float* w,
                                                 float* sums) {
  const LoraArgs& args = job.p;
  const int64_t row = tile * kTileRows;
  const int rows = static_cast<int>(std::min<int64_t>(kTileRows, args.rows - row));
  const int64_t n0 = p * kPanel, width = std::min<int64_t>(kPanel, args.out - n0);
  if (args.identity) {
    for (int i = 0; i < rows; ++i) widen(args.x, args.dtype, (row + i) * args.in + n0, width, sums + i * kPanel);
  } else if (!args.base) {
    std::memset(sums, 0, static_cast<size_t>(rows) * kPanel * sizeof(float));
  } else if (args.base->format == PanelFormat::Int8) {
    const float* scale = args.base->panelScales(p);
    for (int i = 0; i < rows; ++i)
      for (int v = 0; v < kPanel; v += kLanes) {
        float* at = sums + i * kPanel + v;
        store(at, load(at) * load(scale + v));
      }
  }
  forGroups(job, tile, [&](const RankGroup& g, const LoraAdapter& a) {
    if (!a.baseScale) return;
    for (int i = 0; i < g.count; ++i)
      for (int64_t n = 0; n < width; ++n) sums[g.row[i] * kPanel + n] *= a.baseScale[n0 + n];
  });
  if (job.bias)
    for (int i = 0; i < rows; ++i)
      for (int64_t n = 0; n < width; ++n) sums[i * kPanel + n] += job.bias[n0 + n];
  if (args.slots) addAdapters(job, tile, p, w, sums);
  for (int i = 0; i < rows; ++i) narrow(sums + i * kPanel, width, job.y, job.yDType, (row + i) * args.out + n0);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
