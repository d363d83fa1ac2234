// y = op(a) op(b) + bias in float32.
//
// Every element is a sum over K in blocks of a fixed length: fused multiply-adds in ascending k inside a block, float32,
// then the blocks' sums in ascending order. Error <= (kBlockK + K / kBlockK) * 2^-24 * sum |a||b|, in practice about
// sqrt of that. The order depends on the shape alone, so the bits do not depend on the threads.
// Blocking after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): a slab of a
// is packed for all tasks, every task packs its columns of b, and a panel of b stays in L2 while the slab streams past.
#include "kernels/matmul_tile.inl"

#include "kernels/matmul_pack.inl"

#include "kernels/matmul_narrow.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kBlockK = 1024;
constexpr int64_t kSlabRows = 176 * kTileRows;  // rows of a that are packed at a time, for all tasks
constexpr int64_t kStripeColumns = 256;         // columns of b that a task packs
constexpr int64_t kMinRows = 11 * kTileRows;    // of a task: that many repay the packing
constexpr int64_t kEnoughTasks = 16;
constexpr double kLargeProduct = 3e7;  // flops

// The largest even cut of `size` into pieces of at most `most`, in multiples of `unit`.
int64_t evenPieces(int64_t size, int64_t most, int64_t unit) {
  const int64_t pieces = (size + most - 1) / most;
  return roundUp((size + pieces - 1) / pieces, unit);
}

// A slab of rows of y and a block of K; its tasks are rectangles of y, cut by shape alone.
struct Slab {
  int64_t m0, rows, k0, steps;
  bool add;              // to earlier blocks of K
  const float* packedA;  // tiles of rows, panelStride() apart
  int64_t taskRows, taskColumns, rowTasks, columnTasks;
};

void cutTasks(Slab& s, int64_t N) {
  s.taskColumns = evenPieces(N, kStripeColumns, kPanel);
  s.columnTasks = (N + s.taskColumns - 1) / s.taskColumns;
  const int64_t pieces = std::max<int64_t>(1, kEnoughTasks / s.columnTasks);
  s.taskRows = std::min(s.rows, std::max(kMinRows, evenPieces(s.rows, (s.rows + pieces - 1) / pieces, kTileRows)));
  s.rowTasks = (s.rows + s.taskRows - 1) / s.taskRows;
}

void packSlab(const Operand& a, const Slab& s, float* packed, int64_t firstTile, int64_t lastTile) {
  const int64_t begin = firstTile * kTileRows, end = std::min(s.rows, lastTile * kTileRows);
  packPanels<kTileRows>(a, s.m0 + begin, end - begin, s.k0, s.steps, packed + firstTile * panelStride<kTileRows>(s.steps));
}

void multiply(const MatmulArgs& p, const Operand& b, const Slab& s, float* y, int64_t task) {
  const int64_t n0 = task / s.rowTasks * s.taskColumns, columns = std::min(s.taskColumns, p.N - n0);
  const int64_t begin = task % s.rowTasks * s.taskRows, end = std::min(s.rows, begin + s.taskRows);
  // few rows do not repay a copy of b: whole panels are then read where they stand
  const int64_t inPlace = !b.alongK && end - begin <= 3 * kTileRows ? columns / kPanel : 0;
  const int64_t strideA = panelStride<kTileRows>(s.steps), strideB = panelStride<kPanel>(s.steps);
  const int64_t packed = ((columns + kPanel - 1) / kPanel - inPlace) * strideB;
  Scratch scratch(packed);
  float* packedB = scratch.take(packed);
  packPanels<kPanel>(b, n0 + inPlace * kPanel, columns - inPlace * kPanel, s.k0, s.steps, packedB);
  for (int64_t n = 0; n < columns; n += kPanel) {
    const bool direct = n < inPlace * kPanel;
    const float* panel = direct ? b.at(n0 + n, s.k0) : packedB + (n / kPanel - inPlace) * strideB;
    const int width = static_cast<int>(std::min<int64_t>(kPanel, columns - n));
    for (int64_t m = begin; m < end; m += kTileRows) {
      const TileOut out{y + (s.m0 + m) * p.N + n0 + n, p.N, p.bias ? p.bias + n0 + n : nullptr, width, s.add};
      const int height = static_cast<int>(std::min<int64_t>(kTileRows, end - m));
      pickTile<kTileRows>(height, width <= kLanes ? 1 : kTileVecs)(
          s.steps, s.packedA + m / kTileRows * strideA, kTileRows, panel, direct ? b.ld : kPanel, out);
    }
  }
}

// One y, from products [p.reduce] that are added up.
void product(const MatmulArgs& p, Operand a, Operand b, float* y) {
  const int64_t depth = evenPieces(p.K, kBlockK, 8), slabRows = evenPieces(p.M, kSlabRows, kTileRows);
  const int64_t packed = slabRows / kTileRows * panelStride<kTileRows>(depth);
  Scratch scratch(packed);
  float* packedA = scratch.take(packed);
  for (int64_t m0 = 0; m0 < p.M; m0 += slabRows) {
    Slab s{m0, std::min(slabRows, p.M - m0), 0, 0, false, packedA, 0, 0, 0, 0};
    cutTasks(s, p.N);
    const int64_t tiles = (s.rows + kTileRows - 1) / kTileRows;
    for (int64_t r = 0; r < p.reduce; ++r) {
      const Operand x{a.data + r * p.aReduce, a.ld, a.alongK}, w{b.data + r * p.bReduce, b.ld, b.alongK};
      for (s.k0 = 0; s.k0 < p.K; s.k0 += depth) {
        s.steps = std::min(depth, p.K - s.k0);
        const Split pack = splitWork(tiles, 4 * kTileRows * s.steps);
        parallelFor(pack.tasks, p.cancel,
                    [&](int64_t t) { packSlab(x, s, packedA, pack.begin(t), pack.end(t)); });
        const Split work = splitWork(s.rowTasks * s.columnTasks, 2 * s.taskRows * s.taskColumns * s.steps);
        parallelFor(work.tasks, p.cancel, [&](int64_t t) {
          for (int64_t task = work.begin(t); task < work.end(t); ++task) multiply(p, w, s, y, task);
        });
        s.add = true;
      }
    }
  }
}

void products(const MatmulArgs& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i)
    product(p, {p.a + i * p.aStep, p.transposeA ? p.M : p.K, !p.transposeA},
            {p.b + i * p.bStep, p.transposeB ? p.K : p.N, p.transposeB}, p.y + i * p.M * p.N);
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
  // many small products run side by side, large ones are split themselves
  const double flops = 2.0 * static_cast<double>(p.M) * static_cast<double>(p.N) * static_cast<double>(p.K * p.reduce);
  if (flops > kLargeProduct || p.batch == 1) return products(p, 0, p.batch);
  const Split split = splitWork(p.batch, static_cast<int64_t>(flops));
  parallelFor(split.tasks, p.cancel, [&](int64_t t) { products(p, split.begin(t), split.end(t)); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
