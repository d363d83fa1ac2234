// matmul with one short side (decode of a few sequences), bound by the memory traffic of the other operand. Part of
// matmul.inl.
#include "kernels/matmul_lines.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// More rows than these are worth a packed copy of b.
bool isFew(const MatmulArgs& p) {
  const Product q = productOf(p, 0);
  return p.reduce == 1 && q.rows <= (q.b.alongK ? kDotRows : isInPlace(q) ? 1 : kFewRows);
}

// Rows to compute: 1, 2, 4 or 8, kernels for each of which are code enough.
int64_t fewRows(int64_t rows) { return rows <= 2 ? rows : rows <= 4 ? 4 : kFewRows; }

// Columns of a task: enough tasks for the threads, yet in long runs.
int64_t pieceColumns(const Product& q) {
  if (q.b.alongK) return kDotColumns;
  const int64_t most = kLineFloats / fewRows(q.rows), pieces = numThreads() > 1 ? 2 * numThreads() : 1;
  return evenPieces(q.columns, std::min(most, std::max<int64_t>(8 * kLanes, q.columns / pieces)), 2 * kLanes);
}

// The rows' units from the first step on: along K, or across it as the micro kernel's panel.
bool areRowsAlong(const Product& q) { return q.b.alongK || q.rows == 1; }
int64_t rowUnits(const Product& q) {
  return areRowsAlong(q) ? q.rows * (unitsOf(q.K) + 16) : panelStride<kTileRows>(q.K);
}
void packRows(const Product& q, float* to) {
  if (!areRowsAlong(q)) {
    Prefetch none;
    return packPanels<kTileRows>(q.a, 0, q.rows, 0, q.K, to, none);
  }
  const bool contiguous = q.a.alongK || q.rows == 1;
  const int64_t next = contiguous ? 1 : q.a.ld;
  withDType(q.a.dtype, [&](auto d) {
    using D = decltype(d);
    const auto* data = static_cast<const typename D::Element*>(q.a.data);
    for (int64_t i = 0; i < q.rows; ++i) {
      const auto* x = contiguous ? data + i * q.K : data + i;
      float* row = to + i * (unitsOf(q.K) + 16);
      int64_t k = 0;
      if (contiguous)
        for (; k + kLanes * kUnitSteps <= q.K; k += kLanes * kUnitSteps)
          store(row + k / kUnitSteps, unitsAlong<D>(x + k));
      for (; k < q.K; k += kUnitSteps) row[k / kUnitSteps] = unit<D>(x + k * next, next, k + 1 == q.K);
    }
  });
}

template <class D>
void sumBlock(const Product& q, const float* x, int64_t first, int64_t width, int64_t k0, int64_t steps, float* sums,
              int64_t stripe) {
  const int64_t rows = fewRows(q.rows), ldx = rows == 1 ? 1 : kTileRows;
  const auto* w = reinterpret_cast<const typename D::Element*>(q.b.at(first, k0));
  if (q.b.alongK) {
    const DotRows all{x, unitsOf(q.K) + 16, q.rows};
    if (rows == 1) return dotLines<1, D>(all, q.K, w, q.b.ld, width, sums, stripe);
    if (rows == 2) return dotLines<2, D>(all, q.K, w, q.b.ld, width, sums, stripe);
    return dotLines<kDotRows, D>(all, q.K, w, q.b.ld, width, sums, stripe);
  }
  x += k0 / kUnitSteps * ldx;
  if (rows == 1) return lineBlock<1, D>(x, ldx, w, q.b.ld, width, steps, sums, stripe);
  if (rows == 2) return lineBlock<2, D>(x, ldx, w, q.b.ld, width, steps, sums, stripe);
  if (rows == 4) return lineBlock<4, D>(x, ldx, w, q.b.ld, width, steps, sums, stripe);
  if constexpr (kFewRows > 4) lineBlock<kFewRows, D>(x, ldx, w, q.b.ld, width, steps, sums, stripe);
}

void fewPiece(const MatmulArgs& p, const Product& q, const float* x, int64_t first, int64_t columns) {
  const int64_t width = std::min(columns, q.columns - first), depth = q.b.alongK ? q.K : blockSteps(q.K);
  alignas(64) float total[kLineFloats], sums[kLineFloats];
  for (int64_t k0 = 0; k0 < q.K; k0 += depth) {
    withDType(q.b.dtype, [&](auto d) {
      sumBlock<decltype(d)>(q, x, first, width, k0, std::min(depth, q.K - k0), k0 ? sums : total, columns);
    });
    for (int64_t i = 0; i < q.rows; ++i)
      for (int64_t n = 0; n < width; ++n) {
        float& to = total[i * columns + n];
        to += k0 ? sums[i * columns + n] : !q.bias ? 0.0f : q.bias[q.swapped ? i : first + n];
      }
  }
  Slab s{};
  s.n0 = first;
  s.sums = total;
  s.ld = columns;
  finish(p, q, s, 0, q.rows, 0, width);
}

void fewMatmul(const MatmulArgs& p) {
  const Product one = productOf(p, 0);
  const int64_t units = alignFloats(rowUnits(one));
  const bool inPlace = kUnitSteps == 1 && one.a.dtype == DType::F32 && one.rows == 1;
  const bool shared = (one.swapped ? p.bStep : p.aStep) == 0;
  const int64_t copies = inPlace ? 0 : shared ? 1 : p.batch;
  Scratch scratch(copies * units);
  float* rows = scratch.take(copies * units);
  for (int64_t i = 0; i < copies; ++i) packRows(productOf(p, i), rows + i * units);
  const int64_t columns = pieceColumns(one), pieces = (one.columns + columns - 1) / columns;
  // the traffic counts, not the flops: four bytes of w for two of them and a row
  const Split split = splitWork(p.batch * pieces, 8 * columns * p.K);
  parallelFor(split.tasks, p.cancel, [&](int64_t t) {
    for (int64_t piece = split.begin(t); piece < split.end(t); ++piece) {
      const int64_t i = piece / pieces;
      const Product q = productOf(p, i);
      const float* x = inPlace ? static_cast<const float*>(q.a.data) : rows + (shared ? 0 : i) * units;
      fewPiece(p, q, x, piece % pieces * columns, columns);
    }
  });
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
