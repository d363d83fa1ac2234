// matmul with both sides long: packed panels of both operands, a micro kernel over tiles of y. Part of matmul.inl.
#include "kernels/matmul_tile.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kBlockK = kLanes == 16 ? 768 : 512;
constexpr int64_t kNearRows = 16 * kTileRows;   // rows of a that stay in L2 while the panels of b pass
constexpr int64_t kSlabRows = 176 * kTileRows;  // rows of a that are packed at a time, for all tasks
constexpr int64_t kStripeColumns = 256;         // columns of b that a task packs
constexpr int64_t kMinRows = 11 * kTileRows;    // of a task: that many repay the packing
constexpr int64_t kEnoughTasks = 16;

// The largest even cut of `size` into pieces of at most `most`, in multiples of `unit`.
int64_t evenPieces(int64_t size, int64_t most, int64_t unit) {
  const int64_t pieces = (size + most - 1) / most;
  return roundUp((size + pieces - 1) / pieces, unit);
}

// Whether the micro kernel may read b's columns where they stand: for a few rows that is faster than a copy, unless b
// is so large that every step lands on a page of its own.
bool isCompact(const MatmulArgs& p) { return !p.transposeB && p.K * p.N <= int64_t{1} << 20; }

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
  packPanels<kTileRows>(a, s.m0 + begin, end - begin, s.k0, s.steps,
                        packed + firstTile * panelStride<kTileRows>(s.steps));
}

void multiply(const MatmulArgs& p, const Operand& b, const Slab& s, float* y, int64_t task) {
  const int64_t n0 = task / s.rowTasks * s.taskColumns, columns = std::min(s.taskColumns, p.N - n0);
  const int64_t begin = task % s.rowTasks * s.taskRows, end = std::min(s.rows, begin + s.taskRows);
  const int64_t inPlace = isCompact(p) && p.M <= 3 * kTileRows ? columns / kPanel : 0;  // panels
  const int64_t strideA = panelStride<kTileRows>(s.steps), strideB = panelStride<kPanel>(s.steps);
  const int64_t packed = ((columns + kPanel - 1) / kPanel - inPlace) * strideB;
  Scratch scratch(packed);
  float* packedB = scratch.take(packed);
  packPanels<kPanel>(b, n0 + inPlace * kPanel, columns - inPlace * kPanel, s.k0, s.steps, packedB);
  for (int64_t near = begin; near < end; near += kNearRows)
    for (int64_t n = 0; n < columns; n += kPanel) {
      const bool direct = n < inPlace * kPanel;
      const float* panel = direct ? b.at(n0 + n, s.k0) : packedB + (n / kPanel - inPlace) * strideB;
      const int width = static_cast<int>(std::min<int64_t>(kPanel, columns - n));
      for (int64_t m = near; m < std::min(end, near + kNearRows); m += kTileRows) {
        const TileOut out{y + (s.m0 + m) * p.N + n0 + n, p.N, p.bias ? p.bias + n0 + n : nullptr, width, s.add};
        const int height = static_cast<int>(std::min<int64_t>(kTileRows, end - m));
        pickTile<kTileRows>(height, width <= kLanes ? 1 : kTileVecs)(s.steps, s.packedA + m / kTileRows * strideA,
                                                                     kTileRows, panel, direct ? b.ld : kPanel, out);
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
        parallelFor(pack.tasks, p.cancel, [&](int64_t t) { packSlab(x, s, packedA, pack.begin(t), pack.end(t)); });
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

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
