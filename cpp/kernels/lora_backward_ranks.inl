// What passes between A and B on the way back: u = B^T dY, and from it the gradients at t, at gates and of what stands
// between. Part of lora_backward.inl.
#include "kernels/lora_backward_block.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kPieceTiles = 8;  // of items in a task
constexpr int kRunRows = 3;         // neighbouring rows that are multiplied where they lie packed

// Items of one group, side by side, and where their dY lies packed.
struct ItemTile {
  int64_t item;
  int rows;
  const float* packed;
};

// Rows from anywhere as one packed tile.
void gatherTile(const LoraBlock& b, const int32_t* rows, int count, float* to) {
  const int64_t units = unitsOf(b.steps);
  for (int i = 0; i < count; ++i) {
    const float* from = b.packed + rows[i] / kTileRows * b.stride + rows[i] % kTileRows;
    for (int64_t u = 0; u < units; ++u) to[u * kTileRows + i] = from[u * kTileRows];
  }
}

// The piece's items as tiles; `gathered`: room for kPieceTiles packed ones. How many.
int tilesOf(const LoraBlock& b, const LoraGroup& g, const LoraPiece& piece, float* gathered, ItemTile* tiles) {
  const int32_t* rows = b.groups.rows.data() + g.first;
  const int64_t end = piece.first + piece.count;
  int count = 0;
  for (int64_t i = piece.first; i < end;) {
    const int64_t left = end - i, inTile = kTileRows - rows[i] % kTileRows;
    int64_t run = 1;
    while (run < std::min(left, inTile) && rows[i + run] == rows[i] + run) ++run;
    ItemTile& tile = tiles[count++];
    if (run >= kRunRows || run == left) {
      tile = {i, static_cast<int>(run), b.packed + rows[i] / kTileRows * b.stride + rows[i] % kTileRows};
    } else {
      tile = {i, static_cast<int>(std::min<int64_t>(kTileRows, left)), gathered};
      gatherTile(b, rows + i, tile.rows, gathered);
      gathered += b.stride;
    }
    i += tile.rows;
  }
  return count;
}

// The items' u, over the outputs that lie packed.
void addOutputs(const LoraBlock& b, const LoraGroup& g, const LoraPiece& piece) {
  const LoraAdapter& a = b.adapter(g);
  float* u = b.u + g.w;
  if (b.steps == 0) std::memset(u + piece.first * g.ldW, 0, static_cast<size_t>(piece.count * g.ldW) * sizeof(float));
  if (a.bIndex) {
    if (!b.lastChunk()) return;
    FloatView dY;
    dY.data = b.g.dY;
    dY.dtype = b.p.dtype;
    for (int64_t i = piece.first; i < piece.first + piece.count; ++i)
      for (int64_t r = 0; r < a.midRank; ++r) u[i * g.ldW + r] = element(dY, b.row(g, i) * b.p.out + a.bIndex[r]);
    return;
  }
  ItemTile tiles[kPieceTiles * kTileRows];
  const int64_t stripFloats = turnedFloats(std::min(b.depth, b.steps), kUnitSteps);
  Scratch scratch(alignFloats(stripFloats) + kPieceTiles * b.stride);
  float* strip = scratch.take(stripFloats);
  const int count = tilesOf(b, g, piece, scratch.take(kPieceTiles * b.stride), tiles);
  Prefetch none;
  for (int64_t r = 0; r < a.midRank; r += kPanel) {
    const int vecs = a.midRank - r <= kLanes ? 1 : kTileVecs;
    for (int64_t o = 0; o < b.steps; o += b.depth) {
      const int64_t steps = std::min(b.depth, b.steps - o);
      turnPanels<kUnitSteps>(a.b, b.chunk + o, steps, r, vecs, strip);
      for (int k = 0; k < count; ++k) {
        float* to = u + tiles[k].item * g.ldW + r;
        pickTile<kTileRows, SumsOut>(tiles[k].rows, vecs)(unitsOf(steps), tiles[k].packed + o / kUnitSteps * kTileRows,
                                                          strip, vecs * kLanes,
                                                          {to, g.ldW, b.chunk + o > 0 ? to : nullptr}, none);
      }
    }
  }
}

// t of items [first, first + rows) of a group, from x, with the forward's bits.
void shrinkItems(const LoraBlock& b, const LoraGroup& g, int64_t first, int rows) {
  const LoraArgs& p = b.p;
  const LoraAdapter& a = b.adapter(g);
  const int64_t floats = panelStride<kTileRows>(p.in), columns = roundUp(p.in, 4 * kLanes);
  Scratch scratch(alignFloats(floats) + alignFloats(kTileRows * p.in) + shrinkScratch() +
                  (p.dropout > 0 ? columns : 0));
  float *packed = scratch.take(floats), *expanded = scratch.take(shrinkScratch());
  const auto* x = static_cast<const char*>(p.x);
  const int64_t line = p.in * static_cast<int64_t>(dtypeSize(p.dtype));
  Matrix lines{x + b.row(g, first) * line, p.dtype, p.in, true};
  if (b.row(g, first + rows - 1) != b.row(g, first) + rows - 1) {
    auto* copy = reinterpret_cast<char*>(scratch.take(kTileRows * p.in));
    for (int i = 0; i < rows; ++i)
      std::memcpy(copy + i * line, x + b.row(g, first + i) * line, static_cast<size_t>(line));
    lines.data = copy;
  }
  packTile(lines, 0, rows, 0, p.in, packed);
  if (p.dropout > 0) {
    auto* keep = reinterpret_cast<uint32_t*>(scratch.take(columns));
    for (int i = 0; i < rows; ++i) dropOut(p, b.row(g, first + i), 1, packed + i, keep);
  }
  float* t = b.t + g.t + first * g.ldT;
  RankGroup all{};
  all.count = rows;
  for (int i = 0; i < rows; ++i) all.row[i] = static_cast<uint8_t>(i);
  if (a.aIndex) gatherRanks(a, all, packed, t, g.ldT);
  for (int64_t k = 0; !a.aIndex && k < a.a.count(); ++k) shrinkPanel(a.a, k, all, packed, t, g.ldT, expanded);
  if (p.dropout > 0)
    for (int i = 0; i < rows; ++i)
      for (int64_t r = 0; r < a.rank; ++r) t[i * g.ldT + r] *= b.kept;
}

// dp of p = t + a, from dh of h = phi(p).
void activationGradient(const LoraAdapter& a, const float* p, const float* dh, float* dp, float* weights) {
  const int64_t n = a.rank;
  switch (a.activation) {
    case RankActivation::None: std::memcpy(dp, dh, static_cast<size_t>(n) * sizeof(float)); return;
    case RankActivation::Relu:
      for (int64_t i = 0; i < n; ++i) dp[i] = p[i] <= 0 ? 0.0f : dh[i];
      return;
    case RankActivation::Gelu:
      for (int64_t i = 0; i < n; ++i) {
        const float density = 0.39894228f * __builtin_expf(-0.5f * p[i] * p[i]);
        dp[i] = dh[i] * (normalBelow(p[i]) + p[i] * density);
      }
      return;
    case RankActivation::Silu:
      for (int64_t i = 0; i < n; ++i) {
        const float s = 1.0f / (1.0f + __builtin_expf(-p[i]));
        dp[i] = dh[i] * s * (1.0f + p[i] * (1.0f - s));
      }
      return;
    case RankActivation::SelfTopK: {
      // h_i = w_i p_i, w = softmax(s) over the largest of s = p / |p|
      const double norm = selfGates(p, n, a.activeRanks, weights);
      double mean = 0, along = 0;
      for (int64_t i = 0; i < n; ++i)
        if (weights[i] != 0) mean += static_cast<double>(weights[i]) * dh[i] * p[i];
      for (int64_t i = 0; i < n; ++i) {
        dp[i] = weights[i] == 0 ? 0.0f : static_cast<float>(weights[i] * (dh[i] * p[i] - mean));  // ds
        along += static_cast<double>(dp[i]) * p[i];
      }
      if (norm == 0) along = 0;
      for (int64_t i = 0; i < n; ++i) {
        const double ds = norm == 0 ? 0 : (dp[i] - p[i] * (along / norm) / norm) / norm;
        dp[i] = static_cast<float>(ds + (weights[i] == 0 ? 0.0f : weights[i] * dh[i]));
      }
      return;
    }
  }
}

template <class D>
float dotOutputs(const typename D::Element* dY, const float* c, int64_t n) {
  Vec acc = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) acc = fma(D::load(dY + i), load(c + i), acc);
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    acc = fma(D::loadPart(dY + i, rest), loadPart(c + i, rest), acc);
  }
  return sum(acc);
}

// An item's t and u become the gradient at t, times what dropout divides by, and w = gate scale M phi(t + a).
void turnItem(const LoraBlock& b, const LoraGroup& g, int64_t i, float* scratch) {
  const LoraArgs& args = b.p;
  const LoraAdapter& a = b.adapter(g);
  const int64_t row = b.row(g, i), slot = row * args.perRow + g.slot, most = std::max(a.rank, a.midRank);
  float *t = b.t + g.t + i * g.ldT, *u = b.u + g.w + i * g.ldW;
  float *p = scratch, *h = p + most, *w = h + most, *dh = w + most, *dp = dh + most, *spare = dp + most;
  const float gate = args.gates ? args.gates[slot] : 1.0f, factor = gate * a.scale;
  for (int64_t r = 0; r < a.rank; ++r) p[r] = a.rankBias ? t[r] + a.rankBias[r] : t[r];
  activateRanks(a, t, h, spare);
  mixRanks(a, h, w);
  const LoraAdapterGradient* wanted = b.g.adapters ? b.g.adapters + g.adapter : nullptr;
  if (b.g.dGates || (wanted && wanted->scale)) {
    float dot = 0;
    for (int64_t r = 0; r < a.midRank; ++r) dot += u[r] * w[r];
    if (a.outBias)
      dot += withDType(args.dtype, [&](auto d) {
        using D = decltype(d);
        return dotOutputs<D>(static_cast<const typename D::Element*>(b.g.dY) + row * args.out, a.outBias, args.out);
      });
    if (b.g.dGates) b.g.dGates[slot] = a.scale * dot;
    b.scaleOf[g.first + i] = gate * dot;
  }
  for (int64_t r = 0; r < a.midRank; ++r) u[r] *= factor;
  if (a.mid) {
    std::memset(dh, 0, static_cast<size_t>(a.rank) * sizeof(float));
    for (int64_t j = 0; j < a.midRank; ++j) {
      const float* m = a.mid + j * a.rank;
      for (int64_t r = 0; r < a.rank; ++r) dh[r] += u[j] * m[r];
    }
  } else {
    for (int64_t r = 0; r < a.rank; ++r) dh[r] = a.midDiagonal ? a.midDiagonal[r] * u[r] : u[r];
  }
  activationGradient(a, p, dh, dp, spare);
  if (wanted && wanted->mid) {
    std::memcpy(b.du + g.w + i * g.ldW, u, static_cast<size_t>(a.midRank) * sizeof(float));
    std::memcpy(b.h + g.t + i * g.ldT, h, static_cast<size_t>(a.rank) * sizeof(float));
  }
  for (int64_t r = 0; r < a.midRank; ++r) u[r] = factor * w[r];
  for (int64_t r = 0; r < a.rank; ++r) t[r] = dp[r] * b.kept;
  if constexpr (kUnitSteps == 2) {
    std::memset(t + a.rank, 0, static_cast<size_t>(g.ldT - a.rank) * sizeof(float));
    float* units = b.units + g.t / kUnitSteps + i * (g.ldT / kUnitSteps);
    for (int64_t r = 0; r < g.ldT; r += 2 * kLanes) store(units + r / 2, unitsAlong<F32>(t + r));
  }
}

// All of it for a piece, once u is complete.
void turnPiece(const LoraBlock& b, const LoraPiece& piece) {
  const LoraGroup& g = b.groups.groups[piece.group];
  const LoraAdapter& a = b.adapter(g);
  const int64_t end = piece.first + piece.count;
  if (b.p.t) {
    for (int64_t i = piece.first; i < end; ++i)
      std::memcpy(b.t + g.t + i * g.ldT, b.p.t + (b.row(g, i) * b.p.perRow + g.slot) * b.p.tRanks,
                  static_cast<size_t>(a.rank) * sizeof(float));
  } else {
    for (int64_t i = piece.first; i < end; i += kTileRows)
      shrinkItems(b, g, i, static_cast<int>(std::min<int64_t>(kTileRows, end - i)));
  }
  const int64_t floats = 6 * std::max(a.rank, a.midRank);
  Scratch scratch(floats);
  float* spare = scratch.take(floats);
  for (int64_t i = piece.first; i < end; ++i) turnItem(b, g, i, spare);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
