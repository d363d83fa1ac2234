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
namespace {

constexpr int64_t kShrinkUnits = 256;

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

// One row against one panel: blocks [first, first + C) of whole kShrinkUnits, side by side, added to t in order.
template <PanelFormat F, int C, int NV>
__attribute__((noinline)) void shrinkBlocks(const Panels& m, int64_t p, int64_t first, const float* x, float* t,
                                            bool add) {
  using E = Expand<F, kUnitSteps>;
  constexpr int64_t kRows = kShrinkUnits * kUnitSteps / E::kSteps;
  const E expand;
  Stream s[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
    s[c] = {m.panel(p) + (first + c) * kRows * m.width, nullptr, x + (first + c) * kShrinkUnits * kTileRows};
  Vec acc[C][1][NV];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) acc[c][0][v] = zero();
  addStreams<F, 1, C, NV, false>(expand, s, m.width, kRows, kShrinkUnits, acc);
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v) {
    Vec total = add ? load(t + v * kLanes) + acc[0][0][v] : acc[0][0][v];
#pragma GCC unroll 8
    for (int c = 1; c < C; ++c) total = total + acc[c][0][v];
    store(t + v * kLanes, total);
  }
}

// The same of one block of any length.
template <PanelFormat F, int NV>
__attribute__((noinline)) void shrinkRest(const Panels& m, int64_t p, int64_t first, const float* x, float* t,
                                          bool add) {
  using E = Expand<F, kUnitSteps>;
  const int64_t step0 = first * kShrinkUnits * kUnitSteps, steps = m.depth - step0;
  const E expand;
  const Stream s[1] = {{m.panel(p) + step0 / E::kSteps * m.width, nullptr, x + first * kShrinkUnits * kTileRows}};
  Vec acc[1][1][NV] = {};
  addStreams<F, 1, 1, NV, false>(expand, s, m.width, (steps + E::kSteps - 1) / E::kSteps, unitsOf(steps), acc);
#pragma GCC unroll 2
  for (int v = 0; v < NV; ++v) {
    float* to = t + v * kLanes;
    store(to, add ? load(to) + acc[0][0][v] : acc[0][0][v]);
  }
}

template <PanelFormat F, int NV>
void shrinkRow(const Panels& m, int64_t p, const float* x, float* t) {
  constexpr int kChains = kLanes == 16 ? 8 / NV : 4 / NV;
  const int64_t whole = m.depth / (kShrinkUnits * kUnitSteps);
  int64_t block = 0;
  for (; block + kChains <= whole; block += kChains) shrinkBlocks<F, kChains, NV>(m, p, block, x, t, block > 0);
  for (; block < whole; ++block) shrinkBlocks<F, 1, NV>(m, p, block, x, t, block > 0);
  if (block * kShrinkUnits * kUnitSteps < m.depth || block == 0) shrinkRest<F, NV>(m, p, block, x, t, block > 0);
}

// `rows` rows against one panel. scratch: expandedFloats(kShrinkUnits * kUnitSteps, width).
void shrinkRows(const Panels& m, int64_t p, int rows, const float* x, float* t, int64_t ldT, float* scratch) {
  const int64_t units = unitsOf(m.depth);
  const auto run = pickTile<kTileRows, SumsOut>(rows, m.width / kLanes);
  Prefetch none;
  int64_t u = 0;
  do {
    const int64_t count = std::min(kShrinkUnits, units - u), step0 = u * kUnitSteps;
    const float* b = reinterpret_cast<const float*>(m.panel(p)) + u * m.width;
    if (!isDirect<kUnitSteps>(m.format)) {
      expandPanel<kUnitSteps>(m, p, step0, std::min(count * kUnitSteps, m.depth - step0), scratch);
      b = scratch;
    }
    run(count, x + u * kTileRows, b, m.width, {t, ldT, u ? t : nullptr}, none);
    u += count;
  } while (u < units);
}

// Floats of scratch that shrink() takes.
constexpr int64_t shrinkScratch() { return expandedFloats(kShrinkUnits * kUnitSteps, kPanel); }

// Panel p of m against `rows` rows of packed x: t[i * ldT + p * width + j].
void shrinkPanel(const Panels& m, int64_t p, int rows, const float* x, float* t, int64_t ldT, float* scratch) {
  t += p * m.width;
  if (rows > 2) return shrinkRows(m, p, rows, x, t, ldT, scratch);
  for (int i = 0; i < rows; ++i)
    withFormat(m.format, [&](auto f) {
      constexpr PanelFormat F = decltype(f)::value;
      if constexpr (!hasBlocks(F) && F != PanelFormat::Int8) {
        if (m.width == kLanes)
          shrinkRow<F, 1>(m, p, x + i, t + i * ldT);
        else
          shrinkRow<F, 2>(m, p, x + i, t + i * ldT);
      }
    });
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

void gatherRows(const LoraAdapter& a, int rows, const float* x, float* t, int64_t ldT) {
  for (int i = 0; i < rows; ++i)
    for (int64_t r = 0; r < a.rank; ++r) t[i * ldT + r] = packedStep(x + i, a.aIndex[r]);
}

// t [rows, ldT] of rows of one adapter; ldT has room for whole panels.
inline void shrink(const LoraAdapter& a, int rows, const float* x, float* t, int64_t ldT, float* scratch) {
  if (a.aIndex) return gatherRows(a, rows, x, t, ldT);
  for (int64_t p = 0; p < a.a.count(); ++p) shrinkPanel(a.a, p, rows, x, t, ldT, scratch);
}

// Zeroes what dropout takes from a packed tile of `rows` rows from `row` on.
// keep: roundUp(columns, 4 kLanes) words.
void dropOut(const LoraArgs& args, int64_t row, int rows, float* packed, uint32_t* keep) {
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

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
