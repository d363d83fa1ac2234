// The gradients of the fused LoRA product. With t = A x', h = phi(t + a), z = M h, f = gate scale and u = B^T dY:
//
//   w = f z         dB = dY^T w       du = f u       dM = du^T h    dgate = scale (u z + dY c)
//   dh = M^T du     dt = phi'(t + a) dh              da = sum dt    dscale = sum gate (u z + dY c)
//   dA = dt^T x'    dx = W^T (d dY) + dropout'(A^T dt)              dc = sum f dY    dd = sum dY (W x)
//
// Rows pass in blocks. Of a block dY is packed once, for u and for the base's product, whose strips of W are turned
// round as they come from the panels, so that a row's dx is a sum over outputs in ascending order, in blocks that
// depend on their number alone. What the adapters add follows while a strip's sums are in L2. Sums over rows are made
// block by block, adapter by adapter, each in ascending order.
#include "kernels/lora_backward_sums.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kMostRows = 2048;
constexpr int64_t kItemFloats = int64_t{1} << 22;  // of ranks and middle ranks in a block

struct LoraShape {
  int64_t rows;           // of a block
  int64_t depth, steps;   // outputs in a chain of additions, and of a chunk
  int64_t ranks, floats;  // the most of an adapter; floats of an item's ranks and middle ranks
};

int64_t alignRanks(int64_t ranks) { return roundUp(std::max<int64_t>(ranks, 1), kPanel > 16 ? kPanel : 16); }

LoraShape shapeOf(const LoraArgs& p) {
  LoraShape s{};
  s.floats = 1;
  for (int64_t i = 0; p.slots && i < p.rows * p.perRow; ++i) {
    if (p.slots[i] < 0) continue;
    const LoraAdapter& a = *p.adapters[p.slots[i]];
    s.ranks = std::max(s.ranks, a.rank);
    s.floats = std::max(s.floats, alignRanks(a.rank) + alignRanks(a.midRank));
  }
  const int64_t units = unitsOf(std::max<int64_t>(1, p.out)), least = 4 * kTaskRows;
  int64_t most = std::min(std::max(least, kSlabFloats / units), kMostRows);
  most = std::max<int64_t>(8 * kTileRows, std::min(most, kItemFloats / (p.perRow * s.floats)));
  s.rows = evenPieces(p.rows, most, kTileRows);
  s.depth = evenPieces(std::max<int64_t>(1, p.out), kBlockK, kPanel);
  const int64_t blockFloats = s.rows * unitsOf(s.depth);
  s.steps = std::max<int64_t>(1, (kSlabFloats + blockFloats / 2) / blockFloats) * s.depth;
  return s;
}

// Where the parts of every group begin; how many floats there are of each.
struct LoraFloats {
  int64_t t = 0, w = 0, packedT = 0, packedW = 0;
};

LoraFloats placeGroups(const LoraArgs& p, LoraGroups& groups) {
  LoraFloats n;
  for (LoraGroup& g : groups.groups) {
    const LoraAdapter& a = *p.adapters[g.adapter];
    const auto panels = [](int64_t ranks) { return (ranks + kTileRows - 1) / kTileRows; };
    g.ldT = alignRanks(a.rank);
    g.ldW = alignRanks(a.midRank);
    g.t = n.t;
    g.w = n.w;
    g.packedT = n.packedT;
    g.packedW = n.packedW;
    n.t += g.count * g.ldT;
    n.w += g.count * g.ldW;
    n.packedT += panels(a.rank) * panelStride<kTileRows>(g.count);
    n.packedW += panels(a.midRank) * panelStride<kTileRows>(g.count);
  }
  return n;
}

void packOutputs(const LoraBlock& b) {
  const Split split = splitWork((b.rows + kTileRows - 1) / kTileRows, 4 * kTileRows * b.steps);
  parallelFor(split.tasks, b.p.cancel, [&](int64_t task) {
    for (int64_t t = split.begin(task); t < split.end(task); ++t) {
      const int rows = static_cast<int>(std::min<int64_t>(kTileRows, b.rows - t * kTileRows));
      packTile({b.g.dY, b.p.dtype, b.p.out, true}, b.row0 + t * kTileRows, rows, b.chunk, b.steps,
               b.packed + t * b.stride);
    }
  });
}

void inputGradient(const LoraBlock& b, int64_t ranks) {
  const int64_t tiles = (b.rows + kTileRows - 1) / kTileRows, strips = (b.p.in + kPanel - 1) / kPanel;
  if (b.p.base && b.p.slots) {
    const Split split = splitWork(tiles, 4 * kTileRows * b.steps);
    parallelFor(split.tasks, b.p.cancel, [&](int64_t task) {
      for (int64_t t = split.begin(task); t < split.end(task); ++t) scaleTile(b, t);
    });
  }
  const int64_t columnTasks = (strips + kTaskStrips - 1) / kTaskStrips;
  const int64_t wanted = numThreads() > 1 ? 4 * numThreads() : 1, pieces = std::max<int64_t>(1, wanted / columnTasks);
  const int64_t taskTiles = std::max(std::min(tiles, kTaskRows / kTileRows), (tiles + pieces - 1) / pieces);
  const int64_t rowTasks = (tiles + taskTiles - 1) / taskTiles;
  parallelFor(columnTasks * rowTasks, b.p.cancel, [&](int64_t task) {
    const int64_t first = task / rowTasks * kTaskStrips, begin = task % rowTasks * taskTiles;
    dxTask(b, first, std::min(strips, first + kTaskStrips), ranks, begin, std::min(tiles, begin + taskTiles));
  });
}

void adapterGradients(LoraBlock& b) {
  const LoraArgs& p = b.p;
  bool wanted = false;
  for (const LoraUse& use : b.groups.uses)
    wanted = wanted || (b.g.adapters[use.adapter].baseScale && p.adapters[use.adapter]->baseScale);
  wanted = wanted && (p.base || p.identity);
  Scratch scratch(wanted ? b.rows * p.out : 0);
  if (wanted) {
    float* product = scratch.take(b.rows * p.out);
    LoraArgs base = p;
    base.x = static_cast<const char*>(p.x) + b.row0 * p.in * static_cast<int64_t>(dtypeSize(p.dtype));
    base.rows = b.rows;
    base.bias = {};
    base.slots = nullptr;
    base.gates = nullptr;
    base.t = nullptr;
    base.dropout = 0;
    ::rankone::loraForward(base, product, DType::F32);
    b.product = product;
  }
  const int64_t groups = static_cast<int64_t>(b.groups.groups.size());
  parallelFor(groups, p.cancel, [&](int64_t k) { packGroup(b, b.groups.groups[k]); });
  const std::vector<LoraSumJob> jobs = b.groups.sums(p, b.g, kPanel);
  parallelFor(static_cast<int64_t>(jobs.size()), p.cancel, [&](int64_t j) {
    const LoraSumJob& job = jobs[j];
    const LoraUse& use = b.groups.uses[job.use];
    switch (job.kind) {
      case LoraSum::Ranks: return sumRanks(b, use);
      case LoraSum::Outputs: return sumOutputs(b, job, use);
      default: return sumMatrix(b, job, use);
    }
  });
  b.product = nullptr;
}

void backwardBlock(const LoraArgs& p, const LoraGradients& g, const LoraShape& shape, int64_t row0) {
  const int64_t rows = std::min(shape.rows, p.rows - row0), tiles = (rows + kTileRows - 1) / kTileRows;
  LoraGroups groups(p, row0, rows);
  const LoraFloats n = placeGroups(p, groups);
  const int64_t items = static_cast<int64_t>(groups.rows.size());
  const int64_t stride = panelStride<kTileRows>(std::min(shape.steps, std::max<int64_t>(1, p.out)));
  const bool many = p.base && g.dx && p.out > shape.steps;
  const int64_t partial = many ? rows * roundUp(p.in, kPanel) : 0;
  const int64_t keepStride = p.dropout > 0 && items ? roundUp(p.in, 4 * kLanes) / 8 : 0;
  const int64_t keep = (keepStride * rows + 3) / 4;
  const int64_t sums = g.adapters ? 1 : 0;
  Scratch scratch(tiles * stride + alignFloats(partial) + 3 * alignFloats(n.t) + 2 * alignFloats(n.w) +
                  sums * (alignFloats(n.packedT) + 2 * alignFloats(n.packedW)) + alignFloats(items) +
                  alignFloats(keep));
  LoraBlock b{p, g, groups, row0, rows};
  b.packed = scratch.take(tiles * stride);
  b.stride = stride;
  b.depth = shape.depth;
  b.partial = scratch.take(partial);
  b.t = scratch.take(n.t);
  b.h = scratch.take(n.t);
  b.u = scratch.take(n.w);
  b.du = scratch.take(n.w);
  b.units = kUnitSteps == 1 ? b.t : scratch.take(n.t / kUnitSteps);
  b.packedT = scratch.take(sums * n.packedT);
  b.packedW = scratch.take(sums * n.packedW);
  b.packedMid = scratch.take(sums * n.packedW);
  b.scaleOf = scratch.take(items);
  b.kept = p.dropout > 0 ? static_cast<float>(1 / (1 - p.dropout)) : 1.0f;
  b.keepStride = keepStride;
  b.keep = keepStride ? reinterpret_cast<uint8_t*>(scratch.take(keep)) : nullptr;
  if (b.keep) {
    const Split split = splitWork(rows, 16 * p.in);
    parallelFor(split.tasks, p.cancel, [&](int64_t task) {
      Scratch own(8 * keepStride);
      auto* words = reinterpret_cast<uint32_t*>(own.take(8 * keepStride));
      for (int64_t i = split.begin(task); i < split.end(task); ++i) keepRow(b, i, words);
    });
  }
  const std::vector<LoraPiece> pieces = groups.pieces(kPieceTiles * kTileRows);
  do {
    b.steps = std::min(shape.steps, p.out - b.chunk);
    packOutputs(b);
    const bool last = b.lastChunk();
    parallelFor(static_cast<int64_t>(pieces.size()), p.cancel, [&](int64_t i) {
      const LoraPiece& piece = pieces[i];
      addOutputs(b, groups.groups[piece.group], piece);
      if (last) turnPiece(b, piece);
    });
    if (g.dx && (p.base || last)) inputGradient(b, shape.ranks);
    b.chunk += b.steps;
  } while (b.chunk < p.out);
  if (g.adapters && items) adapterGradients(b);
}

}  // namespace

void loraBackward(const LoraArgs& args, const LoraGradients& gradients) {
  if (args.rows == 0) return;
  if (gradients.dBias) rowSum({gradients.dY, gradients.dBias, args.rows, args.out, args.cancel, args.dtype});
  if (!gradients.dx && !gradients.dGates && !gradients.adapters) return;
  const LoraShape shape = shapeOf(args);
  for (int64_t row = 0; row < args.rows; row += shape.rows) backwardBlock(args, gradients, shape, row);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
