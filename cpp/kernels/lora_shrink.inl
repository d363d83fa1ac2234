// t = A x' of rows whose x lies packed: the short product in front of an adapter. Part of lora.inl and
// lora_backward.inl.
//
// An element of t is a sum over blocks of kShrinkUnits units, each of which is one chain of multiply-adds in ascending
// order: several chains can then run side by side where one row stands alone, and the bits are those of a tile.
#include "kernels/lora_stream.inl"
//
#include "kernels/lora_dropout.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int64_t kShrinkUnits = 256;

// Columns [k0, k0 + steps) of rows [row, row + rows) as one packed tile.
inline void packTile(const Matrix& x, int64_t row, int rows, int64_t k0, int64_t steps, float* packed) {
  Prefetch none;
  packPanels<kTileRows>(x, row, rows, k0, steps, packed, none);
}

// Sums of a tile as float32, added to others of the same shape.
struct SumsOut {
  float* to;
  int64_t ld;
  const float* from;  // null: none
  RANKONE_INLINE void begin(int, int) const {}
  template <int MR, int NV>
  RANKONE_INLINE void put(const Vec (&acc)[MR][NV]) const {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        const int64_t at = i * ld + j * kLanes;
        store(to + at, from ? load(from + at) + acc[i][j] : acc[i][j]);
      }
  }
};

// MR rows against one panel: blocks [first, first + C) of whole kShrinkUnits, side by side, added to t in order.
// `whole`: or the last one, of any length.
template <PanelFormat F, int MR, int C, int NV, bool kWhole>
__attribute__((noinline)) void shrinkBlocks(const Panels& m, int64_t p, int64_t first, const float* x,
                                            const int64_t (&row)[MR], float* const (&t)[MR]) {
  using E = Expand<F, kUnitSteps>;
  constexpr int64_t kRows = kShrinkUnits * kUnitSteps / E::kSteps;
  const E expand(F);
  Stream s[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
    s[c] = {m.panel(p) + (first + c) * kRows * m.width, nullptr, x + (first + c) * kShrinkUnits * kTileRows};
  Vec acc[C][MR][NV];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) acc[c][i][v] = zero();
  const int64_t steps = m.depth - first * kShrinkUnits * kUnitSteps;
  const int64_t rows = kWhole ? kRows : (steps + E::kSteps - 1) / E::kSteps;
  addStreams<F, MR, C, NV, false>(expand, s, m.width, rows, kWhole ? kShrinkUnits : unitsOf(steps), row, acc);
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      float* to = t[i] + v * kLanes;
      Vec total = first ? load(to) + acc[0][i][v] : acc[0][i][v];
#pragma GCC unroll 8
      for (int c = 1; c < C; ++c) total = total + acc[c][i][v];
      store(to, total);
    }
}

template <PanelFormat F, int MR, int NV>
void shrinkSome(const Panels& m, int64_t p, const float* x, const int64_t (&row)[MR], float* const (&t)[MR]) {
  constexpr int kWanted = (kLanes == 16 ? 8 : 4) / (MR * NV), kChains = kWanted > 1 ? kWanted : 1;
  const int64_t whole = m.depth / (kShrinkUnits * kUnitSteps);
  int64_t block = 0;
  for (; block + kChains <= whole; block += kChains) shrinkBlocks<F, MR, kChains, NV, true>(m, p, block, x, row, t);
  for (; block < whole; ++block) shrinkBlocks<F, MR, 1, NV, true>(m, p, block, x, row, t);
  if (block * kShrinkUnits * kUnitSteps < m.depth || block == 0)
    shrinkBlocks<F, MR, 1, NV, false>(m, p, block, x, row, t);
}

// Rows [begin, begin + MR) of a group; t of the group's row i at t + i * ldT.
template <int MR>
void shrinkScattered(const Panels& m, int64_t p, const RankGroup& g, int begin, const float* x, float* t, int64_t ldT) {
  int64_t row[MR];
  float* to[MR];
  for (int i = 0; i < MR; ++i) {
    row[i] = g.row[begin + i];
    to[i] = t + (begin + i) * ldT;
  }
  withFormat(m.format, [&](auto f) {
    constexpr PanelFormat F = decltype(f)::value;
    if constexpr (!hasBlocks(F) && F != PanelFormat::Int8) {
      if (m.width == kLanes)
        shrinkSome<F, MR, 1>(m, p, x, row, to);
      else
        shrinkSome<F, MR, 2>(m, p, x, row, to);
    }
  });
}

// Words that the next block of a panel will be made of, fetched into L2 over `groups` groups of units.
inline Prefetch prefetchWords(const Panels& m, const uint32_t* words, int64_t steps, int64_t groups) {
  Prefetch f;
  const int64_t bytes = (steps + panelSteps(m.format) - 1) / panelSteps(m.format) * m.width * 4;
  f.line = reinterpret_cast<const char*>(words);
  f.left = f.run = std::max<int64_t>(1, bytes / Prefetch::kLine);
  f.rate = f.left * Prefetch::kOne / std::max<int64_t>(1, groups);
  return f;
}

// `rows` rows against one panel. scratch: expandedFloats(kShrinkUnits * kUnitSteps, width).
inline void shrinkRows(const Panels& m, int64_t p, int rows, const float* x, float* t, int64_t ldT, float* scratch) {
  const int64_t units = unitsOf(m.depth);
  const auto run = pickTile<kTileRows, SumsOut>(rows, m.width / kLanes);
  int64_t u = 0;
  do {
    const int64_t count = std::min(kShrinkUnits, units - u), step0 = u * kUnitSteps;
    Prefetch next = prefetchWords(m, m.panel(p) + (step0 + count * kUnitSteps) / panelSteps(m.format) * m.width,
                                  kShrinkUnits * kUnitSteps, count / kGroup);
    const float* b = reinterpret_cast<const float*>(m.panel(p)) + u * m.width;
    if (!isDirect<kUnitSteps>(m.format)) {
      expandPanel<kUnitSteps>(m, p, step0, std::min(count * kUnitSteps, m.depth - step0), scratch);
      b = scratch;
    }
    run(count, x + u * kTileRows, b, m.width, {t, ldT, u ? t : nullptr}, next);
    u += count;
  } while (u < units);
}

// Floats of scratch that shrink() takes.
constexpr int64_t shrinkScratch() { return expandedFloats(kShrinkUnits * kUnitSteps, kPanel); }

// Panel p of m against the rows of a group: t[i * ldT + p * width + r].
inline void shrinkPanel(const Panels& m, int64_t p, const RankGroup& g, const float* x, float* t, int64_t ldT,
                        float* scratch) {
  t += p * m.width;
  if (g.isRun() && g.count > 2) return shrinkRows(m, p, g.count, x + g.row[0], t, ldT, scratch);
  int i = 0;
  for (; i + 4 <= g.count; i += 4) shrinkScattered<4>(m, p, g, i, x, t, ldT);
  for (; i + 2 <= g.count; i += 2) shrinkScattered<2>(m, p, g, i, x, t, ldT);
  if (i < g.count) shrinkScattered<1>(m, p, g, i, x, t, ldT);
}

// One step of one row of packed x, in the precision of its units.
RANKONE_INLINE float packedStep(const float* x, int64_t step) {
  if constexpr (kUnitSteps == 1) return x[step * kTileRows];
  uint32_t pair;
  std::memcpy(&pair, x + step / 2 * kTileRows, sizeof pair);
  pair = step % 2 ? pair & 0xffff0000u : pair << 16;
  float value;
  std::memcpy(&value, &pair, sizeof value);
  return value;
}

// t of an adapter whose A is a list of columns.
inline void gatherRanks(const LoraAdapter& a, const RankGroup& g, const float* x, float* t, int64_t ldT) {
  for (int i = 0; i < g.count; ++i)
    for (int64_t r = 0; r < a.rank; ++r) t[i * ldT + r] = packedStep(x + g.row[i], a.aIndex[r]);
}

// Zeroes what dropout takes from a packed tile of `rows` rows from `row` on.
// keep: roundUp(columns, 4 kLanes) words.
inline void dropOut(const LoraArgs& args, int64_t row, int rows, float* packed, uint32_t* keep) {
  auto* units = reinterpret_cast<uint32_t*>(packed);
  for (int i = 0; i < rows; ++i) {
    keepMask(args.dropout, args.seed, row + i, args.in, keep);
    for (int64_t u = 0; u < unitsOf(args.in); ++u) {
      if constexpr (kUnitSteps == 1) {
        units[u * kTileRows + i] &= keep[u];
      } else {
        units[u * kTileRows + i] &= (keep[2 * u] & 0xffffu) | (keep[2 * u + 1] & 0xffff0000u);
      }
    }
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
