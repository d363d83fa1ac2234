// y = op(a) op(b) + bias in float32.
//
// Every element is a sum over K in blocks of a fixed length: fused multiply-adds in ascending k inside a block, float32,
// then the blocks' sums in ascending order. Error <= (kBlockK + K / kBlockK) * 2^-24 * sum |a||b|, in practice about
// sqrt of that. The order depends on the shape alone, so the bits do not depend on the threads.
// Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): panels of both
// operands are packed per task, a panel of b stays in L1 or L2 while the rows of a stream past it.
#include "kernels/matmul_tile.inl"

#include "kernels/matmul_pack.inl"

#include "kernels/matmul_narrow.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kBlockK = 384;
constexpr int64_t kMaxRows = 512, kMaxColumns = 512;  // of y in one task
constexpr int64_t kMinRows = 16 * kTileRows, kMinColumns = 128;

struct Grid {
  int64_t rows, columns;            // of a task
  int64_t rowTasks, columnTasks;    // of one product
};

// Tasks of y by shape alone: large, as every task packs both its operands, but sixteen of them where the size allows.
Grid makeGrid(int64_t batch, int64_t M, int64_t N) {
  Grid g{std::min(roundUp(M, kTileRows), roundUp(kMaxRows, kTileRows)), std::min(roundUp(N, kPanel), kMaxColumns), 1, 1};
  const auto count = [&] { return batch * ((M + g.rows - 1) / g.rows) * ((N + g.columns - 1) / g.columns); };
  while (count() < 16) {
    if (g.columns > kMinColumns)
      g.columns = std::max(kMinColumns, roundUp(g.columns / 2, kPanel));
    else if (g.rows > kMinRows)
      g.rows = std::max<int64_t>(kMinRows, roundUp(g.rows / 2, kTileRows));
    else
      break;
  }
  g.rowTasks = (M + g.rows - 1) / g.rows;
  g.columnTasks = (N + g.columns - 1) / g.columns;
  return g;
}

// One block of y: rows [m0, m0 + rows), columns [n0, n0 + columns).
void block(const MatmulArgs& p, const Operand& a, const Operand& b, float* y, int64_t m0, int64_t rows, int64_t n0,
           int64_t columns) {
  const int64_t blocks = (p.K + kBlockK - 1) / kBlockK;
  const int64_t depth = roundUp((p.K + blocks - 1) / blocks, 8);
  const int64_t paddedRows = roundUp(rows, kTileRows), paddedColumns = roundUp(columns, kPanel);
  // few rows do not repay a copy of b: whole panels are then read where they stand
  const bool direct = !b.alongK && rows <= 3 * kTileRows;
  Scratch scratch(alignFloats(paddedRows * depth) + alignFloats(paddedColumns * depth));
  float* packedA = scratch.take(paddedRows * depth);
  float* packedB = scratch.take(paddedColumns * depth);
  bool add = false;
  for (int64_t r = 0; r < p.reduce; ++r) {
    Operand x = a, w = b;
    x.data += r * p.aReduce;
    w.data += r * p.bReduce;
    for (int64_t k0 = 0; k0 < p.K; k0 += depth) {
      const int64_t steps = std::min(depth, p.K - k0);
      for (int64_t m = 0; m < rows; m += kTileRows)
        packPanel<kTileRows>(x, m0 + m, static_cast<int>(std::min<int64_t>(kTileRows, rows - m)), k0, steps,
                             packedA + m * steps);
      for (int64_t n = 0; n < columns; n += kPanel) {
        const int width = static_cast<int>(std::min<int64_t>(kPanel, columns - n));
        const bool inPlace = direct && width == kPanel;
        const float* panel = inPlace ? w.at(n0 + n, k0) : packedB;
        if (!inPlace) packPanel<kPanel>(w, n0 + n, width, k0, steps, packedB);
        const int vecs = width <= kLanes ? 1 : kTileVecs;
        for (int64_t m = 0; m < rows; m += kTileRows) {
          const TileOut out{y + (m0 + m) * p.N + n0 + n, p.N, p.bias ? p.bias + n0 + n : nullptr, width, add};
          const int height = static_cast<int>(std::min<int64_t>(kTileRows, rows - m));
          pickTile<kTileRows>(height, vecs)(steps, packedA + m * steps, kTileRows, panel, inPlace ? w.ld : kPanel, out);
        }
      }
      add = true;
    }
  }
}

void blockTasks(const MatmulArgs& p, const Grid& g, int64_t begin, int64_t end) {
  const Operand a{p.a, p.transposeA ? p.M : p.K, !p.transposeA}, b{p.b, p.transposeB ? p.K : p.N, p.transposeB};
  for (int64_t task = begin; task < end; ++task) {
    const int64_t column = task % g.columnTasks, rest = task / g.columnTasks;
    const int64_t row = rest % g.rowTasks, batch = rest / g.rowTasks;
    Operand x = a, w = b;
    x.data += batch * p.aStep;
    w.data += batch * p.bStep;
    const int64_t m0 = row * g.rows, n0 = column * g.columns;
    block(p, x, w, p.y + batch * p.M * p.N, m0, std::min(g.rows, p.M - m0), n0, std::min(g.columns, p.N - n0));
  }
}

struct NarrowPlan {
  bool swapped;     // y^T = op(b)^T op(a)^T: the short side is N
  int64_t R, columns, stripes;
  const float* x;   // [batch, R,K], or one for all
  int64_t xStep;
};

// The short operand as it is, or copied so that its rows run along K.
void copyRows(const MatmulArgs& p, const NarrowPlan& plan, int64_t copies, float* rows) {
  const float* from = plan.swapped ? p.b : p.a;
  const int64_t step = plan.swapped ? p.bStep : p.aStep;
  for (int64_t c = 0; c < copies; ++c)
    for (int64_t k = 0; k < p.K; ++k)
      for (int64_t i = 0; i < plan.R; ++i) rows[(c * plan.R + i) * p.K + k] = from[c * step + k * plan.R + i];
}

void narrowTasks(const MatmulArgs& p, const NarrowPlan& plan, int64_t begin, int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    const int64_t stripe = task % plan.stripes, batch = task / plan.stripes;
    Narrow q;
    q.x = plan.x + batch * plan.xStep;
    q.w = plan.swapped ? Operand{p.a + batch * p.aStep, p.transposeA ? p.M : p.K, !p.transposeA}
                       : Operand{p.b + batch * p.bStep, p.transposeB ? p.K : p.N, p.transposeB};
    q.K = p.K;
    q.bias = p.bias;
    q.biasRow = plan.swapped ? 1 : 0;
    q.biasColumn = plan.swapped ? 0 : 1;
    q.y = p.y + batch * p.M * p.N;
    q.yRow = plan.swapped ? 1 : p.N;
    q.yColumn = plan.swapped ? p.N : 1;
    narrowStripe<kNarrow>(q, plan.R, stripe * kStripe, std::min(plan.columns, (stripe + 1) * kStripe));
  }
}

void narrow(const MatmulArgs& p) {
  NarrowPlan plan;
  plan.swapped = p.N < p.M;
  plan.R = std::min(p.M, p.N);
  plan.columns = std::max(p.M, p.N);
  plan.stripes = (plan.columns + kStripe - 1) / kStripe;
  const bool copied = plan.swapped ? !p.transposeB : p.transposeA;
  const int64_t step = plan.swapped ? p.bStep : p.aStep, copies = copied && step ? p.batch : 1;
  Scratch scratch(copied ? copies * plan.R * p.K : 0);
  if (copied) {
    float* rows = scratch.take(copies * plan.R * p.K);
    copyRows(p, plan, copies, rows);
    plan.x = rows;
    plan.xStep = step ? plan.R * p.K : 0;
  } else {
    plan.x = plan.swapped ? p.b : p.a;
    plan.xStep = step;
  }
  // the traffic counts, not the flops: four bytes of w per 2R flops
  const Split split = splitWork(p.batch * plan.stripes, 8 * p.K * std::min(plan.columns, kStripe));
  parallelFor(split.tasks, p.cancel, [&](int64_t t) { narrowTasks(p, plan, split.begin(t), split.end(t)); });
}

// A sum of nothing.
void emptyProduct(const MatmulArgs& p) {
  for (int64_t row = 0; row < p.batch * p.M; ++row)
    for (int64_t n = 0; n < p.N; ++n) p.y[row * p.N + n] = p.bias ? p.bias[n] : 0.0f;
}

}  // namespace

void matmul(const MatmulArgs& p) {
  if (p.batch == 0 || p.M == 0 || p.N == 0) return;
  if (p.K == 0 || p.reduce == 0) return emptyProduct(p);
  if (p.reduce == 1 && std::min(p.M, p.N) <= kNarrow) return narrow(p);
  const Grid g = makeGrid(p.batch, p.M, p.N);
  const Split split = splitWork(p.batch * g.rowTasks * g.columnTasks, 2 * p.reduce * p.K * g.rows * g.columns);
  parallelFor(split.tasks, p.cancel, [&](int64_t t) { blockTasks(p, g, split.begin(t), split.end(t)); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
