// matmul with both sides long: packed panels of both operands, a micro kernel over tiles of y. Part of matmul.inl.
#include "kernels/matmul_tile.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kBlockK = (kLanes == 16 ? 768 : 512) * kUnitSteps;
constexpr int64_t kNearRows = 16 * kTileRows;   // rows of a that stay in L2 while the panels of b pass
constexpr int64_t kSlabRows = 176 * kTileRows;  // rows of a that are packed at a time, for all tasks
constexpr int64_t kStripeColumns = 256;         // columns of b that a task packs
constexpr int64_t kMinRows = 11 * kTileRows;    // of a task: that many repay the packing
constexpr int64_t kEnoughTasks = 16;
constexpr int64_t kBandFloats = 1 << 22;  // of a slab's sums, where y is not float32

// The largest even cut of `size` into pieces of at most `most`, in multiples of `unit`.
int64_t evenPieces(int64_t size, int64_t most, int64_t unit) {
  const int64_t pieces = (size + most - 1) / most;
  return roundUp((size + pieces - 1) / pieces, unit);
}

// Whether the micro kernel may read b's columns where they stand: for a few rows that is faster than a copy, unless b
// is so large that every step lands on a page of its own.
template <class D>
bool isCompact(const MatmulArgs& p) {
  return std::is_same_v<D, F32> && kUnitSteps == 1 && !p.transposeB && p.K * p.N <= int64_t{1} << 20;
}

// Rows and columns of y and a block of K; its tasks are rectangles of y, cut by shape alone.
struct Slab {
  int64_t m0, rows, n0, columns, k0, steps;
  bool add, last;        // to earlier blocks of K; no later ones follow
  const float* packedA;  // tiles of rows, panelStride() apart
  float* sums;           // row r, column c at sums[r * ld + c]: in y, or else y's float32 sums
  int64_t ld;
  int64_t taskRows, taskColumns, rowTasks, columnTasks;
};

void cutTasks(Slab& s) {
  s.taskColumns = evenPieces(s.columns, kStripeColumns, kPanel);
  s.columnTasks = (s.columns + s.taskColumns - 1) / s.taskColumns;
  const int64_t pieces = std::max<int64_t>(1, kEnoughTasks / s.columnTasks);
  s.taskRows = std::min(s.rows, std::max(kMinRows, evenPieces(s.rows, (s.rows + pieces - 1) / pieces, kTileRows)));
  s.rowTasks = (s.rows + s.taskRows - 1) / s.taskRows;
}

template <class D>
void packSlab(const Operand<D>& a, const Slab& s, float* packed, int64_t firstTile, int64_t lastTile) {
  const int64_t begin = firstTile * kTileRows, end = std::min(s.rows, lastTile * kTileRows);
  packPanels<kTileRows>(a, s.m0 + begin, end - begin, s.k0, s.steps,
                        packed + firstTile * panelStride<kTileRows>(s.steps));
}

// y: element 0 of this product's result in the tensor p.y.
template <class D>
void multiply(const MatmulArgs& p, const Operand<D>& b, const Slab& s, int64_t y, int64_t task) {
  const int64_t n0 = task / s.rowTasks * s.taskColumns, columns = std::min(s.taskColumns, s.columns - n0);
  const int64_t begin = task % s.rowTasks * s.taskRows, end = std::min(s.rows, begin + s.taskRows);
  const int64_t inPlace = isCompact<D>(p) && p.M <= 3 * kTileRows ? columns / kPanel : 0;  // panels
  const int64_t strideA = panelStride<kTileRows>(s.steps), strideB = panelStride<kPanel>(s.steps);
  const int64_t packed = ((columns + kPanel - 1) / kPanel - inPlace) * strideB, first = s.n0 + n0;
  const float* bias = p.bias ? static_cast<const float*>(p.bias) + first : nullptr;
  Scratch scratch(packed);
  float* packedB = scratch.take(packed);
  packPanels<kPanel>(b, first + inPlace * kPanel, columns - inPlace * kPanel, s.k0, s.steps, packedB);
  for (int64_t near = begin; near < end; near += kNearRows)
    for (int64_t n = 0; n < columns; n += kPanel) {
      bool direct = false;
      const float* panel = packedB + (n / kPanel - inPlace) * strideB;
      if constexpr (std::is_same_v<D, F32>) {
        direct = n < inPlace * kPanel;
        if (direct) panel = b.at(first + n, s.k0);
      }
      const int width = static_cast<int>(std::min<int64_t>(kPanel, columns - n));
      for (int64_t m = near; m < std::min(end, near + kNearRows); m += kTileRows) {
        const TileOut out{s.sums + m * s.ld + n0 + n, s.ld, bias ? bias + n : nullptr, width, s.add};
        const int height = static_cast<int>(std::min<int64_t>(kTileRows, end - m));
        pickTile<kTileRows>(height, width <= kLanes ? 1 : kTileVecs)(
            unitsOf(s.steps), s.packedA + m / kTileRows * strideA, kTileRows, panel, direct ? b.ld : kPanel, out);
      }
    }
  if (s.last && p.yDType != DType::F32)
    for (int64_t m = begin; m < end; ++m)
      narrow(s.sums + m * s.ld + n0, columns, p.y, p.yDType, y + (s.m0 + m) * p.N + first);
}

// One y, from products [p.reduce] that are added up.
template <class D>
void product(const MatmulArgs& p, Operand<D> a, Operand<D> b, int64_t y) {
  const int64_t depth = evenPieces(p.K, kBlockK, 8), slabRows = evenPieces(p.M, kSlabRows, kTileRows);
  const int64_t packed = slabRows / kTileRows * panelStride<kTileRows>(depth);
  const bool own = p.yDType != DType::F32;
  const int64_t most = own ? std::max(kStripeColumns, kBandFloats / slabRows / kStripeColumns * kStripeColumns) : p.N;
  const int64_t bandColumns = std::min(p.N, most), sums = own ? slabRows * bandColumns : 0;
  Scratch scratch(alignFloats(packed) + sums);
  float *packedA = scratch.take(packed), *ownSums = scratch.take(sums);
  for (int64_t m0 = 0; m0 < p.M; m0 += slabRows)
    for (int64_t n0 = 0; n0 < p.N; n0 += bandColumns) {
      Slab s{};
      s.m0 = m0;
      s.rows = std::min(slabRows, p.M - m0);
      s.n0 = n0;
      s.columns = std::min(bandColumns, p.N - n0);
      s.packedA = packedA;
      s.sums = own ? ownSums : static_cast<float*>(p.y) + y + m0 * p.N + n0;
      s.ld = own ? bandColumns : p.N;
      cutTasks(s);
      const int64_t tiles = (s.rows + kTileRows - 1) / kTileRows;
      for (int64_t r = 0; r < p.reduce; ++r) {
        const Operand<D> x{a.data + r * p.aReduce, a.ld, a.alongK}, w{b.data + r * p.bReduce, b.ld, b.alongK};
        for (s.k0 = 0; s.k0 < p.K; s.k0 += depth) {
          s.steps = std::min(depth, p.K - s.k0);
          s.last = r + 1 == p.reduce && s.k0 + s.steps == p.K;
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

template <class D>
void products(const MatmulArgs& p, int64_t begin, int64_t end) {
  const auto *a = static_cast<const typename D::Element*>(p.a), *b = static_cast<const typename D::Element*>(p.b);
  for (int64_t i = begin; i < end; ++i)
    product<D>(p, {a + i * p.aStep, p.transposeA ? p.M : p.K, !p.transposeA},
               {b + i * p.bStep, p.transposeB ? p.K : p.N, p.transposeB}, i * p.M * p.N);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
