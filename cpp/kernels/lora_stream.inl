// Products of a few rows with panels' words as they stream by, read once and made units in registers. Part of lora.inl.
#include "kernels/matmul_block.inl"
//
#include "kernels/lora_expand.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// Bytes from a stream's words to those to prefetch: 8 KB ahead of what memory sends, all streams together.
constexpr int64_t streamAhead(int streams) { return 8192 / streams; }

// Keeps a sum where it is computed. Without it clang begins with the products of all streams, looked up and scaled, for
// which there are not registers enough.
template <PanelFormat F, int MR>
RANKONE_INLINE Vec inTurn(Vec sum) {
#if defined(__clang__) && RANKONE_LEVEL == 2
  if constexpr (isNibbles(F) && MR == 1 && kUnitSteps == 1) asm("" : "+v"(sum));
#endif
  return sum;
}

// One of several runs of words that are read side by side: one chain of additions waits for itself, four do not.
struct Stream {
  const uint32_t* words;
  const float* scales;
  const float* x;  // unit u of a row at x[u * kTileRows + row]
};

// C streams of `rows` word rows with one scale each, `width` words apart, and `units` units of them: C x MR rows x NV
// vectors of sums. Units are added in ascending order, one by one, as in a tile. row[i]: where x has row i.
template <PanelFormat F, int MR, int C, int NV, bool kSharedX>
RANKONE_INLINE void addStreams(const Expand<F, kUnitSteps>& expand, const Stream (&s)[C], int64_t width, int64_t rows,
                               int64_t units, const int64_t (&row)[MR], Vec (&acc)[C][MR][NV]) {
  using E = Expand<F, kUnitSteps>;
  Vec scale[C][NV] = {};
  if constexpr (hasBlocks(F))
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) {
        scale[c][v] = load(s[c].scales + v * kLanes);
        __builtin_prefetch(s[c].scales + 4 * width + v * kLanes);
      }
  const uint32_t* words[C];
  const float* x[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    words[c] = s[c].words;
    x[c] = s[c].x;
  }
  const auto turn = [&](int64_t r, int count) __attribute__((always_inline)) {
    UVec w[C][NV][E::kWordRows];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 2
      for (int v = 0; v < NV; ++v) {
        w[c][v][0] = loadWords(words[c] + v * kLanes);
        __builtin_prefetch(words[c] + v * kLanes + streamAhead(C) / 4);
        if constexpr (E::kWordRows == 2) {
          w[c][v][1] = r + 1 < rows ? loadWords(words[c] + width + v * kLanes) : UVec{};
          __builtin_prefetch(words[c] + width + v * kLanes + streamAhead(C) / 4);
        }
      }
#pragma GCC unroll 8
    for (int u = 0; u < E::kUnits; ++u) {
      if (u >= count) break;
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        Vec b[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) b[v] = expand.unit(w[c][v], scale[c][v], u);
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) {
          const Vec a = broadcast(x[kSharedX ? 0 : c] + u * kTileRows + row[i]);
#pragma GCC unroll 2
          for (int v = 0; v < NV; ++v) acc[c][i][v] = inTurn<F, MR>(multiplyAdd(a, b[v], acc[c][i][v]));
        }
      }
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      words[c] += E::kWordRows * width;
      x[c] += E::kUnits * kTileRows;
    }
  };
  int64_t r = 0, u = 0;
  for (; u + E::kUnits <= units; u += E::kUnits, r += E::kWordRows) turn(r, E::kUnits);
  if (u < units) turn(r, static_cast<int>(units - u));
}

// Panels [p, p + C) times MR rows of packed x, over [step0, step0 + steps): sums[(c * MR + i) * kPanel + column], added
// to what stands there where `add`.
template <PanelFormat F, int MR, int C>
__attribute__((noinline)) void streamPanels(const Panels& m, int64_t p, int64_t step0, int64_t steps, const float* x,
                                            float* sums, bool add) {
  const Expand<F, kUnitSteps> expand(m.format);
  Vec acc[C][MR][kTileVecs];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) acc[c][i][v] = zero();
  int64_t row[MR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) row[i] = i;
  const int64_t units = unitsOf(steps), scaleStep = m.blocks() * m.width;
  x += step0 / kUnitSteps * kTileRows;
  forBlocks<F, kUnitSteps>(
      m, p, step0, steps,
      [&](const uint32_t* words, const float* scales, int64_t unit, int64_t rows) __attribute__((always_inline)) {
        Stream s[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c)
          s[c] = {words + c * m.stride(), scales ? scales + c * scaleStep : nullptr, x + unit * kTileRows};
        const int64_t most = (rows + Expand<F, kUnitSteps>::kWordRows - 1) / Expand<F, kUnitSteps>::kWordRows *
                             Expand<F, kUnitSteps>::kUnits;
        addStreams<F, MR, C, kTileVecs, true>(expand, s, m.width, rows, std::min(most, units - unit), row, acc);
      });
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) {
        float* to = sums + (c * MR + i) * kPanel + v * kLanes;
        store(to, add ? load(to) + acc[c][i][v] : acc[c][i][v]);
      }
}

// The most rows that streams serve, and what they are rounded up to: 1, 2, 4 or 8, kernels for each of which are code
// enough.
constexpr int kStreamRows = kTileRows >= 8 ? 8 : 4;
constexpr int streamRows(int64_t rows) { return rows <= 2 ? static_cast<int>(rows) : rows <= 4 ? 4 : 8; }
// Panels side by side.
constexpr int streamPanelCount(int64_t rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

// streamPanels() of streamPanelCount(rows) panels, or of one.
template <PanelFormat F>
void streamOf(const Panels& m, int64_t p, bool several, int64_t rows, int64_t step0, int64_t steps, const float* x,
              float* sums, bool add) {
  switch (streamRows(rows)) {
    case 1:
      return several ? streamPanels<F, 1, 4>(m, p, step0, steps, x, sums, add)
                     : streamPanels<F, 1, 1>(m, p, step0, steps, x, sums, add);
    case 2:
      return several ? streamPanels<F, 2, 2>(m, p, step0, steps, x, sums, add)
                     : streamPanels<F, 2, 1>(m, p, step0, steps, x, sums, add);
    case 4: return streamPanels<F, 4, 1>(m, p, step0, steps, x, sums, add);
    default:
      if constexpr (kStreamRows == 8) streamPanels<F, 8, 1>(m, p, step0, steps, x, sums, add);
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
