// From the base product's sums of a tile to y, while they are in L1: scales, bias, the adapters' second products. Part of
// lora.inl.
#include "kernels/lora_shrink.inl"
//
#include "kernels/lora_rank.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kApart = 4;  // rows with adapters of their own that are added side by side

// A call with what its parts share.
struct LoraJob {
  const LoraArgs& p;
  void* y;
  DType yDType;
  const float* bias;  // float32, or null
  int64_t tLd;        // floats of a row's t: whole panels
  int64_t ranks;      // floats of a slot's w
  int64_t wordsOfW() const { return p.slots ? p.perRow * ranks * kTileRows : 0; }  // of a tile
  int64_t slot(int64_t row, int64_t j) const { return p.slots[row * p.perRow + j]; }
  float gate(int64_t row, int64_t j) const { return p.gates ? p.gates[row * p.perRow + j] : 1.0f; }
};

// Rows [i, end) of a tile have one adapter in slot j: visit(adapter, i, end), but not where it is none.
template <class Visit>
RANKONE_INLINE void forRuns(const LoraJob& job, int64_t row, int rows, int64_t j, Visit&& visit) {
  for (int i = 0, end; i < rows; i = end) {
    const int64_t slot = job.slot(row + i, j);
    for (end = i + 1; end < rows && job.slot(row + end, j) == slot;) ++end;
    if (slot >= 0) visit(*job.p.adapters[slot], i, end);
  }
}

// x of a tile as packed units and w of its rows: w[(j * ranks + r) * kTileRows + i].
template <class D>
void prepareTile(const LoraJob& job, int64_t row, int rows, float* packed, float* w) {
  const LoraArgs& p = job.p;
  const Operand<D> x{static_cast<const typename D::Element*>(p.x), p.in, true};
  Prefetch none;
  packPanels<kTileRows>(x, row, rows, 0, p.in, packed, none);
  if (!p.slots) return;
  const int64_t floats = panelStride<kTileRows>(p.in), columns = roundUp(p.in, 4 * kLanes);
  const int64_t tFloats = p.perRow * kTileRows * job.tLd, most = std::max(job.tLd, job.ranks);
  Scratch scratch(alignFloats(tFloats) + alignFloats(job.ranks) + alignFloats(2 * most) +
                  (p.dropout > 0 ? alignFloats(floats) + columns : 0));
  float *t = scratch.take(tFloats), *one = scratch.take(job.ranks), *finish = scratch.take(2 * most);
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
    for (int64_t j = 0; j < p.perRow; ++j)
      forRuns(job, row, rows, j, [&](const LoraAdapter& a, int i, int end) {
        float* to = t + (j * kTileRows + i) * job.tLd;
        if (a.aIndex) {
          if (panel == 0) gatherRows(a, end - i, seen + i, to, job.tLd);
        } else if (panel < a.a.count()) {
          shrinkPanel(a.a, panel, end - i, seen + i, to, job.tLd, expanded);
        }
      });
  });
  const float kept = static_cast<float>(1 / (1 - p.dropout));
  for (int64_t j = 0; j < p.perRow; ++j) {
    if (p.t)
      for (int i = 0; i < rows; ++i)
        std::memset(p.t + ((row + i) * p.perRow + j) * p.tRanks, 0, static_cast<size_t>(p.tRanks) * sizeof(float));
    forRuns(job, row, rows, j, [&](const LoraAdapter& a, int begin, int end) {
      for (int i = begin; i < end; ++i) {
        float* of = t + (j * kTileRows + i) * job.tLd;
        if (p.dropout > 0)
          for (int64_t r = 0; r < a.rank; ++r) of[r] *= kept;
        if (p.t)
          std::memcpy(p.t + ((row + i) * p.perRow + j) * p.tRanks, of, static_cast<size_t>(a.rank) * sizeof(float));
        finishRanks(a, of, job.gate(row + i, j) * a.scale, one, finish);
        for (int64_t r = 0; r < a.midRank; ++r) w[(j * job.ranks + r) * kTileRows + i] = one[r];
      }
    });
  }
}

// B's panels as float32, kept for the next tile with the same adapter.
struct RankPanels {
  float* scratch;  // [kApart, roundUp(ranks, 8), kPanel]
  int64_t stride;
  const LoraAdapter* of[kApart] = {};
  int64_t panel = -1;

  const float* get(const LoraAdapter& a, int64_t p, int place) {
    if (a.b.format == PanelFormat::F32) return reinterpret_cast<const float*>(a.b.panel(p));
    if (p != panel) {
      for (auto& o : of) o = nullptr;
      panel = p;
    }
    float* to = scratch + place * stride;
    if (of[place] != &a) expandPanel<1>(a.b, p, 0, a.midRank, to);
    of[place] = &a;
    return to;
  }
};
constexpr int64_t rankPanelFloats(int64_t ranks) { return kApart * expandedFloats(ranks, kPanel); }

// sums[i] += sum over r of w[r * kTileRows + i] b[i][r], ranks [begin, end) in ascending order; kShared: one b.
template <int MR, bool kShared>
__attribute__((noinline)) void addRanks(int64_t begin, int64_t end, const float* w, const float* const* b,
                                        float* sums) {
  Vec acc[MR][kTileVecs];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) acc[i][v] = load(sums + i * kPanel + v * kLanes);
  const float* row[kShared ? 1 : MR];
#pragma GCC unroll 16
  for (int i = 0; i < (kShared ? 1 : MR); ++i) row[i] = b[i] + begin * kPanel;
  w += begin * kTileRows;
  for (int64_t r = begin; r < end; ++r, w += kTileRows) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const Vec a = broadcast(w + i);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) acc[i][v] = fma(a, load(row[kShared ? 0 : i] + v * kLanes), acc[i][v]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < (kShared ? 1 : MR); ++i) row[i] += kPanel;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) store(sums + i * kPanel + v * kLanes, acc[i][v]);
}

using AddRanks = void (*)(int64_t, int64_t, const float*, const float* const*, float*);
template <int MR>
AddRanks pickAddRanks(int rows) {
  if constexpr (MR > 1)
    if (rows < MR) return pickAddRanks<MR - 1>(rows);
  return addRanks<MR, true>;
}

// One slot of a tile's rows.
void addSlot(const LoraJob& job, int64_t row, int rows, int64_t j, int64_t p, const float* w, float* sums,
             RankPanels& panels) {
  w += j * job.ranks * kTileRows;
  const LoraAdapter* alone[kApart];
  const float* b[kApart];
  int first = 0, count = 0;  // rows [first, first + count) of one adapter each, to be added side by side
  const auto flush = [&] {
    if (count == kApart) {
      int64_t common = alone[0]->midRank;
      for (int k = 1; k < kApart; ++k) common = std::min(common, alone[k]->midRank);
      addRanks<kApart, false>(0, common, w + first, b, sums + first * kPanel);
      for (int k = 0; k < kApart; ++k)
        if (common < alone[k]->midRank)
          addRanks<1, true>(common, alone[k]->midRank, w + first + k, b + k, sums + (first + k) * kPanel);
    } else {
      for (int k = 0; k < count; ++k)
        addRanks<1, true>(0, alone[k]->midRank, w + first + k, b + k, sums + (first + k) * kPanel);
    }
    count = 0;
  };
  forRuns(job, row, rows, j, [&](const LoraAdapter& a, int i, int end) {
    if (a.bIndex) return;
    if (end - i == 1) {
      if (count && first + count != i) flush();
      if (count == 0) first = i;
      alone[count] = &a;
      b[count] = panels.get(a, p, count);
      if (++count == kApart) flush();
      return;
    }
    flush();
    const float* shared = panels.get(a, p, 0);
    pickAddRanks<kTileRows>(end - i)(0, a.midRank, w + i, &shared, sums + i * kPanel);
  });
  flush();
  forRuns(job, row, rows, j, [&](const LoraAdapter& a, int i, int end) {
    const int64_t n0 = p * kPanel, n1 = std::min(job.p.out, n0 + kPanel);
    if (a.bIndex) {
      const int32_t *order = a.bOrder, *last = order + a.midRank;
      const int32_t* k = std::lower_bound(order, last, n0, [&](int32_t r, int64_t n) { return a.bIndex[r] < n; });
      for (; k < last && a.bIndex[*k] < n1; ++k)
        for (int m = i; m < end; ++m) sums[m * kPanel + a.bIndex[*k] - n0] += w[*k * kTileRows + m];
    }
    if (a.outBias)
      for (int m = i; m < end; ++m) {
        const float factor = job.gate(row + m, j) * a.scale;
        for (int64_t n = n0; n < n1; ++n) sums[m * kPanel + n - n0] += factor * a.outBias[n];
      }
  });
}

// Columns of panel p of y, from the base's sums [rows, kPanel].
template <class D>
__attribute__((noinline)) void finishTile(const LoraJob& job, int64_t row, int rows, int64_t p, const float* w,
                                          float* sums, RankPanels& panels) {
  const LoraArgs& args = job.p;
  const int64_t n0 = p * kPanel, width = std::min<int64_t>(kPanel, args.out - n0);
  if (args.identity) {
    for (int i = 0; i < rows; ++i)
      widenElements<D>(static_cast<const typename D::Element*>(args.x) + (row + i) * args.in + n0, width,
                       sums + i * kPanel);
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
  if (args.slots)
    for (int i = 0; i < rows; ++i) {
      const int64_t slot = job.slot(row + i, 0);
      const float* d = slot < 0 ? nullptr : args.adapters[slot]->baseScale;
      if (d)
        for (int64_t n = 0; n < width; ++n) sums[i * kPanel + n] *= d[n0 + n];
    }
  if (job.bias)
    for (int i = 0; i < rows; ++i)
      for (int64_t n = 0; n < width; ++n) sums[i * kPanel + n] += job.bias[n0 + n];
  if (args.slots)
    for (int64_t j = 0; j < args.perRow; ++j) addSlot(job, row, rows, j, p, w, sums, panels);
  for (int i = 0; i < rows; ++i) narrow(sums + i * kPanel, width, job.y, job.yDType, (row + i) * args.out + n0);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
