// dx = W^T (d dY) + the adapters' A^T dt, strip by strip of kPanel columns. Part of lora_backward.inl.
#include "kernels/lora_backward_ranks.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kTaskStrips = 4;

// rows[i] += sum over units r of t[i][r] a[r], where the bits that are kept allow it.
template <int MR>
__attribute__((noinline)) void addTurned(int64_t units, const float* const* t, const float* a, float* const* rows,
                                         const uint8_t* const* keep, int64_t column) {
  Vec acc[MR][kTileVecs];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) acc[i][v] = zero();
  for (int64_t r = 0; r < units; ++r, a += kPanel) {
    Vec columns[kTileVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) columns[v] = load(a + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const Vec one = broadcast(t[i] + r);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) acc[i][v] = multiplyAdd(one, columns[v], acc[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVecs; ++v) {
      Vec x = acc[i][v];
      if (keep) x = (Vec)((UVec)x & keepLanes(keepBits(keep[i], column + v * kLanes)));
      store(rows[i] + v * kLanes, load(rows[i] + v * kLanes) + x);
    }
}

using AddTurned = void (*)(int64_t, const float* const*, const float*, float* const*, const uint8_t* const*, int64_t);
template <int MR>
AddTurned pickAddTurned(int rows) {
  if constexpr (MR > 1)
    if (rows < MR) return pickAddTurned<MR - 1>(rows);
  return addTurned<MR>;
}

// Items [first, end) of a group to a strip's sums, whose first row is the block's row `begin`.
void addGroup(const LoraBlock& b, const LoraGroup& g, int64_t first, int64_t end, int64_t begin, int64_t n0, float* a,
              float* sums) {
  const LoraAdapter& adapter = b.adapter(g);
  const int32_t* rows = b.groups.rows.data() + g.first;
  const float* t = b.t + g.t;
  if (adapter.aIndex) {
    for (int64_t r = 0; r < adapter.rank; ++r) {
      const int64_t column = adapter.aIndex[r] - n0;
      if (column < 0 || column >= kPanel) continue;
      for (int64_t i = first; i < end; ++i) {
        if (b.keep && !(b.keep[rows[i] * b.keepStride + (n0 + column) / 8] >> ((n0 + column) % 8) & 1)) continue;
        sums[(rows[i] - begin) * kPanel + column] += t[i * g.ldT + r];
      }
    }
    return;
  }
  turnPanels<kUnitSteps>(adapter.a, 0, adapter.rank, n0, kTileVecs, a);
  for (int64_t i = first; i < end; i += kTileRows) {
    const int count = static_cast<int>(std::min<int64_t>(end - i, kTileRows));
    const float* from[kTileRows];
    float* to[kTileRows];
    const uint8_t* keep[kTileRows];
    for (int k = 0; k < count; ++k) {
      from[k] = b.units + g.t / kUnitSteps + (i + k) * (g.ldT / kUnitSteps);
      to[k] = sums + (rows[i + k] - begin) * kPanel;
      keep[k] = b.keep ? b.keep + rows[i + k] * b.keepStride : nullptr;
    }
    pickAddTurned<kTileRows>(count)(unitsOf(adapter.rank), from, a, to, b.keep ? keep : nullptr, n0);
  }
}

// What the next group will turn round, a few lines that lie anywhere. One word is read for good: a prefetch is dropped
// where the page's translation is not at hand.
void prefetchGroup(const LoraBlock& b, const LoraGroup& g, int64_t n0) {
  const LoraAdapter& adapter = b.adapter(g);
  if (adapter.aIndex) return;
  const Panels& a = adapter.a;
  const int64_t step = panelSteps(a.format), words = std::min<int64_t>(kPanel, a.depth - n0) / step * a.width;
  for (int64_t p = 0; p < a.count(); ++p) {
    const uint32_t* from = a.panel(p) + n0 / step * a.width;
    (void)*static_cast<const volatile uint32_t*>(from);
    for (int64_t k = 0; k < words; k += 16) __builtin_prefetch(from + k);
  }
}

// The words that the next block of outputs of a strip is made of, fetched into L2 over `groups` groups of units.
Prefetch prefetchStrip(const Panels& m, int64_t o, int64_t steps, int64_t n0, int64_t groups) {
  Prefetch f;
  const int64_t panelSize = panelSteps(m.format), bytes = std::max<int64_t>(1, kPanel / panelSize) * m.width * 4;
  f.line = reinterpret_cast<const char*>(m.panel(o / m.width) + n0 / panelSize * m.width);
  f.left = f.run = std::max<int64_t>(1, bytes / Prefetch::kLine);
  f.skip = m.stride() * 4 - f.run * Prefetch::kLine;
  f.rate = f.run * ((steps + m.width - 1) / m.width) * Prefetch::kOne / std::max<int64_t>(1, groups);
  return f;
}

// Rows of dx that a strip will be written to.
void prefetchRows(const LoraBlock& b, int64_t row, int rows, int64_t n0) {
  const int64_t size = static_cast<int64_t>(dtypeSize(b.g.dxDType)), ld = b.p.in * size;
  const char* to = static_cast<const char*>(b.g.dx) + (b.row0 + row) * ld + n0 * size;
  for (int i = 0; i < rows; ++i, to += ld)
    for (int64_t k = 0; k < kPanel * size; k += 64) __builtin_prefetch(to + k, 1, 2);
}

// What stands in place of a base's product.
void fillSums(const LoraBlock& b, int64_t begin, int64_t end, int64_t n0, int64_t columns, float* sums) {
  if (!b.p.identity) {
    std::memset(sums, 0, static_cast<size_t>((end - begin) * kPanel) * sizeof(float));
    return;
  }
  for (int64_t i = begin; i < end; ++i, sums += kPanel) {
    widen(b.g.dY, b.p.dtype, (b.row0 + i) * b.p.out + n0, columns, sums);
    if (const float* d = b.baseScale(b.row0 + i))
      for (int64_t n = 0; n < columns; ++n) sums[n] *= d[n0 + n];
  }
}

void putSums(const LoraBlock& b, int64_t begin, int64_t end, int64_t n0, int64_t columns, const float* sums) {
  withDType(b.g.dxDType, [&](auto d) {
    using D = decltype(d);
    auto* to = static_cast<typename D::Element*>(b.g.dx) + (b.row0 + begin) * b.p.in + n0;
    for (int64_t i = begin; i < end; ++i, to += b.p.in, sums += kPanel) narrowElements<D>(sums, columns, to);
  });
}

// Strips [first, last) of dx, tiles [begin, end) of the block, over the outputs that lie packed.
void dxTask(const LoraBlock& b, int64_t first, int64_t last, int64_t ranks, int64_t begin, int64_t end) {
  const LoraArgs& p = b.p;
  const int64_t tiles = end - begin, row = begin * kTileRows, endRow = std::min(b.rows, end * kTileRows);
  const int64_t stripFloats = p.base ? turnedFloats(std::min(b.depth, b.steps), kUnitSteps) : 0;
  const int64_t sumFloats = tiles * kTileRows * kPanel, aFloats = turnedFloats(ranks, kUnitSteps);
  Scratch scratch(alignFloats(stripFloats) + alignFloats(sumFloats) + alignFloats(aFloats));
  float *strip = scratch.take(stripFloats), *sums = scratch.take(sumFloats), *a = scratch.take(aFloats);
  const int64_t ldPartial = roundUp(p.in, kPanel);
  for (int64_t n = first; n < last; ++n) {
    const int64_t n0 = n * kPanel, columns = std::min<int64_t>(kPanel, p.in - n0);
    if (p.base) {
      if (b.chunk > 0)
        for (int64_t i = row; i < endRow; ++i)
          std::memcpy(sums + (i - row) * kPanel, b.partial + i * ldPartial + n0, kPanel * sizeof(float));
      for (int64_t o = 0; o < b.steps; o += b.depth) {
        const int64_t steps = std::min(b.depth, b.steps - o), groups = tiles * ((unitsOf(steps) + kGroup - 1) / kGroup);
        turnPanels<kUnitSteps>(*p.base, b.chunk + o, steps, n0, kTileVecs, strip);
        Prefetch prefetch;
        if (o + steps < b.steps)
          prefetch = prefetchStrip(*p.base, b.chunk + o + steps, std::min(b.depth, b.steps - o - steps), n0, groups);
        else if (n0 + kPanel < p.in)  // the next strip, be it another task's
          prefetch = prefetchStrip(*p.base, b.chunk, std::min(b.depth, b.steps), n0 + kPanel, groups);
        const bool isLast = b.lastChunk() && o + steps >= b.steps;
        for (int64_t t = begin; t < end; ++t) {
          const int height = static_cast<int>(std::min<int64_t>(kTileRows, b.rows - t * kTileRows));
          if (isLast) prefetchRows(b, t * kTileRows, height, n0);
          float* to = sums + (t - begin) * kTileRows * kPanel;
          const SumsOut out{to, kPanel, b.chunk + o > 0 ? to : nullptr};
          pickTile<kTileRows, SumsOut>(height, kTileVecs)(
              unitsOf(steps), b.packed + t * b.stride + o / kUnitSteps * kTileRows, strip, kPanel, out, prefetch);
        }
      }
      if (!b.lastChunk()) {
        for (int64_t i = row; i < endRow; ++i)
          std::memcpy(b.partial + i * ldPartial + n0, sums + (i - row) * kPanel, kPanel * sizeof(float));
        continue;
      }
    }
    if (!p.base || p.out == 0) fillSums(b, row, endRow, n0, columns, sums);
    for (size_t k = 0; k < b.groups.groups.size(); ++k) {
      const LoraGroup& g = b.groups.groups[k];
      if (k + 1 < b.groups.groups.size()) prefetchGroup(b, b.groups.groups[k + 1], n0);
      const int32_t *rows = b.groups.rows.data() + g.first, *stop = rows + g.count;
      const int64_t from = std::lower_bound(rows, stop, static_cast<int32_t>(row)) - rows;
      const int64_t to = std::lower_bound(rows, stop, static_cast<int32_t>(endRow)) - rows;
      if (from < to) addGroup(b, g, from, to, row, n0, a, sums);
    }
    putSums(b, row, endRow, n0, columns, sums);
  }
}

// dY of a tile whose rows' d are not all ones, as what W is multiplied by.
void scaleTile(const LoraBlock& b, int64_t t) {
  const int64_t row = b.row0 + t * kTileRows;
  const int rows = static_cast<int>(std::min<int64_t>(kTileRows, b.rows - t * kTileRows));
  bool any = false;
  for (int i = 0; i < rows; ++i) any = any || b.baseScale(row + i);
  if (!any) return;
  Scratch scratch(kTileRows * b.steps);
  float* scaled = scratch.take(kTileRows * b.steps);
  for (int i = 0; i < rows; ++i) {
    widen(b.g.dY, b.p.dtype, (row + i) * b.p.out + b.chunk, b.steps, scaled + i * b.steps);
    if (const float* d = b.baseScale(row + i))
      for (int64_t n = 0; n < b.steps; ++n) scaled[i * b.steps + n] *= d[b.chunk + n];
  }
  packTile({scaled, DType::F32, b.steps, true}, 0, rows, 0, b.steps, b.packed + t * b.stride);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
