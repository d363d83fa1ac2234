// Gradients that are sums over rows: dA = dt^T x', dB = dY^T w, dM = du^T h and those of vectors. Part of
// lora_backward.inl.
#include "kernels/lora_backward_dx.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// Columns [column, column + columns) of rows, in units of rows; `rows`: which of them, or null: all.
struct StripSource {
  const void* data;
  DType dtype;
  int64_t ld;
  const int32_t* rows;
  const uint8_t* keep;  // of row 0; null: all stays
  int64_t keepStride;
  int64_t row(int64_t i) const { return rows ? rows[i] : i; }
};

constexpr int64_t kStripFloats = int64_t{1} << 16;  // of strips that are packed together: memory likes long runs
constexpr int64_t kRowsAhead = 16;

// Units of one row, or two, of up to kPanel columns.
template <class D>
RANKONE_INLINE void packRows(const StripSource& x, int64_t row, int64_t next, bool last, int64_t column,
                             int64_t columns, float* to) {
  const auto* in = static_cast<const typename D::Element*>(x.data) + row * x.ld + column;
  Vec units[2];
  if (columns == kPanel) {
    pairAcross<D>(in, next * x.ld, last, units);
  } else {
    for (int v = 0; v < 2; ++v) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, columns - v * kLanes));
      units[v] = lanes > 0 ? unitsAcross<D>(in + v * kLanes, next * x.ld, last, lanes) : zero();
    }
  }
  if (x.keep) {
    const uint8_t* keep = x.keep + row * x.keepStride;
    for (int v = 0; v < 2; ++v) {
      UVec mask = keepLanes(keepBits(keep, column + v * kLanes));
      if constexpr (kUnitSteps == 2) {
        const UVec other = keepLanes(keepBits(keep + next * x.keepStride, column + v * kLanes));
        mask = (mask & 0xffffu) | (other & 0xffff0000u);
      }
      units[v] = (Vec)((UVec)units[v] & mask);
    }
  }
  store(to, units[0]);
  store(to + kLanes, units[1]);
}

// Columns [column, column + columns) of `count` rows as strips, `stride` floats each.
template <class D>
__attribute__((noinline)) void packStrips(const StripSource& x, int64_t count, int64_t column, int64_t columns,
                                          int64_t stride, float* to) {
  const auto* data = static_cast<const typename D::Element*>(x.data);
  constexpr int64_t kLine = 64 / sizeof(typename D::Element);
  for (int64_t k = 0; k < count; k += kUnitSteps, to += kPanel) {
    const int64_t row = x.row(k);
    const bool last = k + 1 == count;
    const int64_t next = kUnitSteps == 1 || last ? 0 : x.row(k + 1) - row;
    for (int64_t a = k + kRowsAhead; a < std::min(count, k + kRowsAhead + kUnitSteps); ++a)
      for (int64_t c = 0; c < columns; c += kLine) __builtin_prefetch(data + x.row(a) * x.ld + column + c);
    float* out = to;
    for (int64_t c = 0; c < columns; c += kPanel, out += stride)
      packRows<D>(x, row, next, last, column + c, std::min<int64_t>(kPanel, columns - c), out);
  }
}

// sum over rows of a packed side and a strip, for `side` lines of it: put(line, values of the strip's columns).
template <class Put>
RANKONE_INLINE void sumStrip(const float* packed, int64_t side, int64_t count, const float* strip, int64_t columns,
                             Put&& put) {
  const int vecs = columns <= kLanes ? 1 : kTileVecs;
  Prefetch none;
  for (int64_t q = 0; q < side; q += kTileRows, packed += panelStride<kTileRows>(count)) {
    const int lines = static_cast<int>(std::min<int64_t>(kTileRows, side - q));
    const TileOut out = put(q);
    pickTile<kTileRows, TileOut>(lines, vecs)(unitsOf(count), packed, strip, kPanel, out, none);
  }
}

// dB is laid out across the sums.
void addAcross(const float* sums, int64_t lines, int64_t columns, float* to, int64_t ld) {
  for (int64_t n = 0; n < columns; ++n)
    for (int64_t r = 0; r < lines; ++r) to[n * ld + r] += sums[r * kPanel + n];
}

// Strips of the columns that are summed with `side` lines, which lie packed: add(line, strip, column, columns).
template <class Add>
void sumGroup(const StripSource& x, const LoraSumJob& job, int64_t count, int64_t size, float* strips, Add&& add) {
  const int64_t stride = unitsOf(count) * kPanel, fit = std::max<int64_t>(1, kStripFloats / stride);
  for (int64_t s = job.first; s < job.last; s += fit) {
    const int64_t n0 = s * kPanel, n1 = std::min(size, std::min(job.last, s + fit) * kPanel);
    withDType(x.dtype, [&](auto d) { packStrips<decltype(d)>(x, count, n0, n1 - n0, stride, strips); });
    for (int64_t n = n0; n < n1; n += kPanel)
      add(strips + (n - n0) / kPanel * stride, n, std::min<int64_t>(kPanel, n1 - n));
  }
}

void sumMatrix(const LoraBlock& b, const LoraSumJob& job, const LoraUse& use) {
  const LoraAdapter& a = *b.p.adapters[use.adapter];
  const LoraAdapterGradient& to = b.g.adapters[use.adapter];
  const int64_t size = static_cast<int64_t>(dtypeSize(b.p.dtype));
  const char* x = static_cast<const char*>(b.p.x) + b.row0 * b.p.in * size;
  const char* dY = static_cast<const char*>(b.g.dY) + b.row0 * b.p.out * size;
  const int64_t stripFloats = std::max(kStripFloats, unitsOf(b.rows) * kPanel);
  Scratch scratch(alignFloats(stripFloats) + kTileRows * kPanel);
  float *strips = scratch.take(stripFloats), *local = scratch.take(kTileRows * kPanel);
  for (int64_t k = 0; k < use.count; ++k) {
    const LoraGroup& g = b.groups.groups[b.groups.byAdapter[use.first + k]];
    const int32_t* rows = b.groups.rows.data() + g.first;
    if (job.kind == LoraSum::A) {
      sumGroup({x, b.p.dtype, b.p.in, rows, b.keep, b.keepStride}, job, g.count, b.p.in, strips,
               [&](const float* strip, int64_t n, int64_t columns) {
                 sumStrip(b.packedT + g.packedT, a.rank, g.count, strip, columns, [&](int64_t q) {
                   return TileOut{to.a + q * b.p.in + n, b.p.in, nullptr, static_cast<int>(columns), true};
                 });
               });
    } else if (job.kind == LoraSum::Mid) {
      sumGroup({b.h + g.t, DType::F32, g.ldT, nullptr, nullptr, 0}, job, g.count, a.rank, strips,
               [&](const float* strip, int64_t n, int64_t columns) {
                 sumStrip(b.packedMid + g.packedW, a.midRank, g.count, strip, columns, [&](int64_t q) {
                   return TileOut{to.mid + q * to.midRanks + n, to.midRanks, nullptr, static_cast<int>(columns), true};
                 });
               });
    } else {
      sumGroup({dY, b.p.dtype, b.p.out, rows, nullptr, 0}, job, g.count, b.p.out, strips,
               [&](const float* strip, int64_t n, int64_t columns) {
                 const float* packed = b.packedW + g.packedW;
                 for (int64_t q = 0; q < a.midRank; q += kTileRows, packed += panelStride<kTileRows>(g.count)) {
                   const int64_t lines = std::min<int64_t>(kTileRows, a.midRank - q);
                   sumStrip(packed, lines, g.count, strip, columns, [&](int64_t) {
                     return TileOut{local, kPanel, nullptr, kPanel, false};
                   });
                   addAcross(local, lines, columns, to.b + n * to.bRanks + q, to.bRanks);
                 }
               });
    }
  }
}

// Gradients of rank bias, scale and a diagonal M.
void sumRanks(const LoraBlock& b, const LoraUse& use) {
  const LoraAdapter& a = *b.p.adapters[use.adapter];
  const LoraAdapterGradient& to = b.g.adapters[use.adapter];
  const double undo = 1.0 / b.kept;
  double scale = 0;
  for (int64_t k = 0; k < use.count; ++k) {
    const LoraGroup& g = b.groups.groups[b.groups.byAdapter[use.first + k]];
    if (to.scale)
      for (int64_t i = 0; i < g.count; ++i) scale += b.scaleOf[g.first + i];
    for (int64_t r = 0; r < a.rank; ++r) {
      double bias = 0, diagonal = 0;
      for (int64_t i = 0; i < g.count; ++i) {
        if (to.rankBias) bias += b.t[g.t + i * g.ldT + r];
        if (to.mid && a.midDiagonal)
          diagonal += static_cast<double>(b.du[g.w + i * g.ldW + r]) * b.h[g.t + i * g.ldT + r];
      }
      if (to.rankBias) to.rankBias[r] += static_cast<float>(bias * undo);
      if (to.mid && a.midDiagonal) to.mid[r] += static_cast<float>(diagonal);
    }
  }
  if (to.scale) *to.scale += static_cast<float>(scale);
}

// Gradients of the output bias and of d.
void sumOutputs(const LoraBlock& b, const LoraSumJob& job, const LoraUse& use) {
  const LoraAdapter& a = *b.p.adapters[use.adapter];
  const LoraAdapterGradient& to = b.g.adapters[use.adapter];
  for (int64_t s = job.first; s < job.last; ++s) {
    const int64_t n0 = s * kPanel, columns = std::min<int64_t>(kPanel, b.p.out - n0);
    float bias[kPanel] = {}, scale[kPanel] = {}, line[kPanel];
    for (int64_t k = 0; k < use.count; ++k) {
      const LoraGroup& g = b.groups.groups[b.groups.byAdapter[use.first + k]];
      for (int64_t i = 0; i < g.count; ++i) {
        const int64_t row = b.row(g, i), slot = row * b.p.perRow + g.slot;
        const float factor = (b.p.gates ? b.p.gates[slot] : 1.0f) * a.scale;
        widen(b.g.dY, b.p.dtype, row * b.p.out + n0, columns, line);
        for (int64_t n = 0; to.outBias && n < columns; ++n) bias[n] += factor * line[n];
        for (int64_t n = 0; to.baseScale && b.product && n < columns; ++n)
          scale[n] += line[n] * b.product[(row - b.row0) * b.p.out + n0 + n];
      }
    }
    for (int64_t n = 0; n < columns; ++n) {
      if (to.outBias) to.outBias[n0 + n] += bias[n];
      if (to.baseScale) to.baseScale[n0 + n] += scale[n];
    }
  }
}

// A group's gradients at t, w and du, with its items as the steps of K.
void packGroup(const LoraBlock& b, const LoraGroup& g) {
  const LoraAdapter& a = b.adapter(g);
  const LoraAdapterGradient& to = b.g.adapters[g.adapter];
  Prefetch none;
  if (to.a && !a.aIndex)
    packPanels<kTileRows>(Operand<F32>{b.t + g.t, g.ldT, false}, 0, a.rank, 0, g.count, b.packedT + g.packedT, none);
  if (to.b && !a.bIndex)
    packPanels<kTileRows>(Operand<F32>{b.u + g.w, g.ldW, false}, 0, a.midRank, 0, g.count, b.packedW + g.packedW, none);
  if (to.mid && a.mid)
    packPanels<kTileRows>(Operand<F32>{b.du + g.w, g.ldW, false}, 0, a.midRank, 0, g.count, b.packedMid + g.packedW,
                          none);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
