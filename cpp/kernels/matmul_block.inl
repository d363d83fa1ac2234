// matmul as packed panels of both operands and a micro kernel over tiles of y. Part of matmul.inl.
#include "kernels/matmul_tile.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// Steps of K that are added up in one chain; y is read and written once for each.
constexpr int64_t kBlockK = 2048 * kUnitSteps;
constexpr int64_t kSlabFloats = int64_t{1} << 21;    // of packed a, for all tasks: it is read from L3
constexpr int64_t kStripeFloats = int64_t{1} << 16;  // of packed b at a time: it stays in L2 while the rows pass
constexpr int64_t kLinePanels = 4;                   // as many at least where b's lines run across K: pages are long
constexpr int64_t kTaskColumns = 256, kTaskRows = 11 * kTileRows;  // of a task: that many repay the packing
constexpr int64_t kRunTiles = 32;  // of a, packed together where its lines run across K: memory likes long runs
constexpr int64_t kSwapColumns = 8;
constexpr int kFewRows = kTileRows >= 8 ? 8 : 4;
constexpr int64_t kBandFloats = 1 << 22;  // of a slab's sums, where y is not float32

// The largest even cut of `size` into pieces of at most `most`, in multiples of `unit`.
inline int64_t evenPieces(int64_t size, int64_t most, int64_t unit) {
  const int64_t pieces = (size + most - 1) / most;
  return roundUp((size + pieces - 1) / pieces, unit);
}
inline int64_t blockSteps(int64_t K) { return evenPieces(K, kBlockK, 8); }

// y = a b, or y^T = b^T a^T where y has few columns: its rows are the short side then.
struct Product {
  Matrix a, b;
  int64_t rows, columns, K;
  const float* bias;  // null: none; else of the columns, or of the rows where `swapped`
  bool swapped;
  int64_t y;  // element 0 of the result in the tensor
};

inline Product productOf(const MatmulArgs& p, int64_t i) {
  const Matrix a{p.a, p.dtype, p.transposeA ? p.M : p.K, !p.transposeA};
  const Matrix b{p.b, p.dtype, p.transposeB ? p.K : p.N, p.transposeB};
  Product q{a.from(i * p.aStep),
            b.from(i * p.bStep),
            p.M,
            p.N,
            p.K,
            static_cast<const float*>(p.bias),
            p.N < p.M && p.N <= kSwapColumns,
            i * p.M * p.N};
  if (q.swapped) {
    std::swap(q.a, q.b);
    std::swap(q.rows, q.columns);
  }
  return q;
}

// Rows and columns of y and a block of K; its tasks are rectangles of y.
struct Slab {
  int64_t m0, rows, n0, columns, k0, steps;
  bool add, last;        // to earlier blocks of K; no later ones follow
  const float* packedA;  // tiles of rows, panelStride() apart
  float* sums;           // row r, column c at sums[r * ld + c]: in y, or else y's float32 sums
  int64_t ld;
  int64_t taskRows, taskColumns, rowTasks, columnTasks;
};

inline void cutTasks(Slab& s, int64_t threads) {
  s.taskColumns = evenPieces(s.columns, kTaskColumns, kPanel);
  s.columnTasks = (s.columns + s.taskColumns - 1) / s.taskColumns;
  const int64_t wanted = threads > 1 ? 4 * threads : 1, pieces = std::max<int64_t>(1, wanted / s.columnTasks);
  s.taskRows = std::min(s.rows, std::max(kTaskRows, evenPieces(s.rows, (s.rows + pieces - 1) / pieces, kTileRows)));
  s.rowTasks = (s.rows + s.taskRows - 1) / s.taskRows;
}

// The columns [first, first + count) of b, to be fetched during `tiles` tiles.
inline Prefetch prefetchOf(const Matrix& b, int64_t first, int64_t count, const Slab& s, int64_t tiles) {
  const int64_t size = b.size(), wordSteps = kUnitSteps == 2 ? 2 : 4 / size;
  Prefetch f;
  if (count <= 0) return f;
  const int64_t runs = b.alongK ? count : s.steps, bytes = (b.alongK ? s.steps : count) * size;
  f.line = b.at(first, s.k0);
  f.left = f.run = (bytes + Prefetch::kLine - 1) / Prefetch::kLine;
  f.skip = b.ld * size - f.run * Prefetch::kLine;
  const int64_t squares = b.alongK ? count * s.steps / (kLanes * kLanes * wordSteps) : 0;
  f.rate = runs * f.run * Prefetch::kOne / (tiles * ((unitsOf(s.steps) + kGroup - 1) / kGroup) + squares);
  return f;
}

inline void addToRows(const Slab& s, const float* bias, int64_t m0, int64_t m1, int64_t n0, int64_t columns) {
  for (int64_t m = m0; m < m1; ++m)
    for (int64_t n = n0; n < n0 + columns; ++n) s.sums[m * s.ld + n] += bias[m];
}

// Finished sums of rows [m0, m1) and columns [n0, n0 + columns) of the slab to a tensor that cannot hold them before.
inline void finish(const MatmulArgs& p, const Product& q, const Slab& s, int64_t m0, int64_t m1, int64_t n0,
                   int64_t columns) {
  if (!q.swapped || q.rows == 1) {
    for (int64_t m = m0; m < m1; ++m)
      narrow(s.sums + m * s.ld + n0, columns, p.y, p.yDType, q.y + (s.m0 + m) * p.N + s.n0 + n0);
    return;
  }
  float row[16];
  for (int64_t n = n0; n < n0 + columns; ++n) {
    for (int64_t m = m0; m < m1; ++m) row[m - m0] = s.sums[m * s.ld + n];
    narrow(row, m1 - m0, p.y, p.yDType, q.y + (s.n0 + n) * p.N + s.m0 + m0);
  }
}

// Whether the micro kernel may read b's columns where they stand: for a few rows that is faster than a copy, unless b
// is so large that every step lands on a page of its own. Lines that no L2 holds should be read in long runs.
inline bool isInPlace(const Product& q) {
  const int64_t most = int64_t{1} << (q.rows <= kFewRows ? 17 : 20);
  return q.b.dtype == DType::F32 && kUnitSteps == 1 && !q.b.alongK && q.rows <= 3 * kTileRows && q.K * q.b.ld <= most;
}

inline void multiply(const MatmulArgs& p, const Product& q, const Matrix& b, const Slab& s, int64_t task) {
  const int64_t n0 = task / s.rowTasks * s.taskColumns, n1 = std::min(s.columns, n0 + s.taskColumns);
  const int64_t begin = task % s.rowTasks * s.taskRows, end = std::min(s.rows, begin + s.taskRows);
  const int64_t inPlace = isInPlace(q) ? n0 + (n1 - n0) / kPanel * kPanel : n0;  // columns up to here
  const int64_t units = unitsOf(s.steps), strideA = panelStride<kTileRows>(s.steps);
  const int64_t strideB = panelStride<kPanel>(s.steps), tiles = (end - begin + kTileRows - 1) / kTileRows;
  const int64_t fit = std::max(b.alongK ? int64_t{1} : kLinePanels, kStripeFloats / (kPanel * units));
  const int64_t stripe = std::min(fit * kPanel, roundUp(n1 - inPlace, kPanel));
  const float* bias = p.bias && !q.swapped && !s.add ? q.bias + s.n0 : nullptr;
  Scratch scratch(stripe / kPanel * strideB);
  float* packedB = scratch.take(stripe / kPanel * strideB);
  Prefetch prefetch;
  for (int64_t n = n0; n < n1; n += kPanel) {
    const float* panel;
    int64_t ldb = kPanel;
    if (n < inPlace) {
      panel = reinterpret_cast<const float*>(b.at(s.n0 + n, s.k0));
      ldb = b.ld;
    } else {
      const int64_t at = (n - inPlace) % stripe;
      if (at == 0) {
        const int64_t next = n + stripe;
        prefetch = prefetchOf(b, s.n0 + next, std::min(stripe, s.columns - next), s, tiles * (stripe / kPanel));
        packPanels<kPanel>(b, s.n0 + n, std::min(stripe, n1 - n), s.k0, s.steps, packedB, prefetch);
      }
      panel = packedB + at / kPanel * strideB;
    }
    const int width = static_cast<int>(std::min<int64_t>(kPanel, n1 - n)), vecs = width <= kLanes ? 1 : kTileVecs;
    for (int64_t m = begin; m < end; m += kTileRows) {
      const TileOut out{s.sums + m * s.ld + n, s.ld, bias ? bias + n : nullptr, width, s.add};
      const int height = static_cast<int>(std::min<int64_t>(kTileRows, end - m));
      pickTile<kTileRows, TileOut>(height, vecs)(units, s.packedA + m / kTileRows * strideA, panel, ldb, out, prefetch);
    }
  }
  if (p.bias && q.swapped && !s.add) addToRows(s, q.bias + s.m0, begin, end, n0, n1 - n0);
  if (s.last && (q.swapped || p.yDType != DType::F32)) finish(p, q, s, begin, end, n0, n1 - n0);
}

// One y, from products [p.reduce] that are added up; `threads` may share the work.
inline void product(const MatmulArgs& p, const Product& q, int64_t threads) {
  const int64_t depth = blockSteps(q.K);
  const int64_t slabRows = evenPieces(q.rows, std::max(kTaskRows, kSlabFloats / unitsOf(depth)), kTileRows);
  const int64_t packed = slabRows / kTileRows * panelStride<kTileRows>(depth);
  const bool own = q.swapped || p.yDType != DType::F32;
  const int64_t most = own ? std::max(kTaskColumns, kBandFloats / slabRows / kTaskColumns * kTaskColumns) : q.columns;
  const int64_t bandColumns = std::min(q.columns, most), sums = own ? slabRows * bandColumns : 0;
  Scratch scratch(alignFloats(packed) + sums);
  float *packedA = scratch.take(packed), *ownSums = scratch.take(sums);
  for (int64_t m0 = 0; m0 < q.rows; m0 += slabRows)
    for (int64_t n0 = 0; n0 < q.columns; n0 += bandColumns) {
      Slab s{};
      s.m0 = m0;
      s.rows = std::min(slabRows, q.rows - m0);
      s.n0 = n0;
      s.columns = std::min(bandColumns, q.columns - n0);
      s.packedA = packedA;
      s.sums = own ? ownSums : static_cast<float*>(p.y) + q.y + m0 * q.columns + n0;
      s.ld = own ? bandColumns : q.columns;
      cutTasks(s, threads);
      const int64_t tiles = (s.rows + kTileRows - 1) / kTileRows;
      for (int64_t r = 0; r < p.reduce; ++r) {
        const Matrix a = q.a.from(r * (q.swapped ? p.bReduce : p.aReduce));
        const Matrix b = q.b.from(r * (q.swapped ? p.aReduce : p.bReduce));
        for (s.k0 = 0; s.k0 < q.K; s.k0 += depth) {
          s.steps = std::min(depth, q.K - s.k0);
          s.last = r + 1 == p.reduce && s.k0 + s.steps == q.K;
          const int64_t run = a.alongK ? 1 : std::min(kRunTiles, (tiles + threads - 1) / threads);
          const Split pack = splitWork((tiles + run - 1) / run, 4 * kTileRows * s.steps * run);
          parallelFor(pack.tasks, p.cancel, [&](int64_t t) {
            const int64_t first = pack.begin(t) * run, begin = first * kTileRows;
            const int64_t end = std::min(s.rows, pack.end(t) * run * kTileRows);
            Prefetch none;
            packPanels<kTileRows>(a, s.m0 + begin, end - begin, s.k0, s.steps,
                                  packedA + first * panelStride<kTileRows>(s.steps), none);
          });
          const Split work = splitWork(s.rowTasks * s.columnTasks, 2 * s.taskRows * s.taskColumns * s.steps);
          parallelFor(work.tasks, p.cancel, [&](int64_t t) {
            for (int64_t task = work.begin(t); task < work.end(t); ++task) multiply(p, q, b, s, task);
          });
          s.add = true;
        }
      }
    }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
