// Products with a sparse matrix: y = x S^T, its gradients, and w += S.
//
// Rows of x become lanes: a block of them is transposed, so that a value of S meets a whole vector of x. An element of
// y is a sum over its row of S in four chains (positions p, p + 4, ...), folded every kFoldedEntries, float32
// throughout; a lone row goes the same way in scalars, and has the bits that it has among others. Error <=
// (kFoldedEntries / 4 + 3 + n / kFoldedEntries) * 2^-24 * sum |x||s| for n values in a row.
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kBlockVectors = 2;                // vectors of rows in a block
constexpr int64_t kFoldedEntries = 256;             // of a row of S, a multiple of four
constexpr int64_t kGroupFloats = int64_t{1} << 21;  // of transposed rows at a time
constexpr int64_t kPieceRows = 64;                  // of S, whose results are turned back together
constexpr int64_t kTurnedColumns = 512;             // of a task that transposes

// Rows [first, first + rows) of x [.., ld], columns [begin, end): to[c * stride + row], zeros up to a whole vector.
template <class D>
void turnRows(const void* x, int64_t ld, int64_t first, int64_t rows, int64_t begin, int64_t end, float* to,
              int64_t stride) {
  for (int64_t row = 0; row < rows; row += kLanes) {
    const int64_t count = lanesLeft(row, rows);
    for (int64_t c = begin; c < end; c += kLanes) {
      const int n = lanesLeft(c, end);
      Vec square[kLanes] = {};
      for (int64_t i = 0; i < count; ++i) square[i] = get<D>(elements<D>(x, (first + row + i) * ld + c), n);
      transpose(square);
      for (int i = 0; i < n; ++i) store(to + (c + i) * stride + row, square[i]);
    }
  }
}

RANKONE_INLINE float multiplyAdd(float a, float b, float c) {
#if RANKONE_LEVEL >= 1 || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
RANKONE_INLINE Vec multiplyAdd(float a, Vec b, Vec c) { return fma(splat(a), b, c); }

// One row of S against X of a block: a vector of its rows, or the only one.
template <class X, class Load>
RANKONE_INLINE X rowOfS(const SparsePattern& s, const float* weights, int64_t row, Load&& load) {
  const int64_t end = s.first[row + 1];
  X total = {};
  for (int64_t p = s.first[row]; p < end;) {
    const int64_t stop = std::min(end, p + kFoldedEntries);
    X chain[4] = {};
    for (; p + 4 <= stop; p += 4)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) chain[i] = multiplyAdd(weights[p + i], load(s.column[p + i]), chain[i]);
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i)  // unrolled: an index that varies would keep the chains out of registers
      if (p < stop) {
        chain[i] = multiplyAdd(weights[p], load(s.column[p]), chain[i]);
        ++p;
      }
    total = total + ((chain[0] + chain[1]) + (chain[2] + chain[3]));
  }
  return total;
}

// Results of rows [begin, end) of S, for block row m at out[m * kPieceRows + i].
void blockRows(const SpmmArgs& p, const float* weights, const float* turned, int64_t rows, int64_t begin, int64_t end,
               float* out) {
  if (rows == 1) {
    for (int64_t i = begin; i < end; ++i)
      out[i - begin] = rowOfS<float>(p.pattern, weights, i, [&](int64_t c) { return turned[c]; });
    return;
  }
  const int64_t stride = roundUp(rows, kLanes);
  for (int64_t v = 0; v < stride; v += kLanes)
    for (int64_t i = begin; i < end; i += kLanes) {
      const int64_t count = lanesLeft(i, end);
      Vec square[kLanes] = {};
      for (int64_t j = 0; j < count; ++j)
        square[j] = rowOfS<Vec>(p.pattern, weights, i + j, [&](int64_t c) { return load(turned + c * stride + v); });
      transpose(square);
      for (int64_t m = v; m < std::min(rows, v + kLanes); ++m) store(out + m * kPieceRows + i - begin, square[m - v]);
    }
}

void finishRow(const SpmmArgs& p, float* row, int64_t at, int64_t count) {
  if (p.addend) {
    float addend[kPieceRows];
    widen(p.addend.data, p.addend.dtype, at, count, addend);
    for (int64_t i = 0; i < count; ++i) row[i] += addend[i];
  }
  narrow(row, count, p.y, p.yDType, at);
}

// values in the order of the pattern, times scale.
void orderedValues(const FloatView& values, const SparsePattern& s, double scale, float* to) {
  const float factor = static_cast<float>(scale);
  if (s.position)
    for (int64_t p = 0; p < s.count; ++p) to[p] = element(values, s.position[p]);
  else
    widen(values.data, values.dtype, 0, s.count, to);
  if (factor != 1)
    for (int64_t p = 0; p < s.count; ++p) to[p] *= factor;
}

struct Blocks {
  int64_t M, rows, count;  // of x; of a block; blocks
  int64_t begin(int64_t block) const { return block * rows; }
  int64_t size(int64_t block) const { return std::min(rows, M - begin(block)); }
};

template <class D>
void multiplyGroup(const SpmmArgs& p, const float* weights, const Blocks& blocks, int64_t first, int64_t count,
                   float* turned) {
  const SparsePattern& s = p.pattern;
  const int64_t each = s.columns * blocks.rows, cuts = (s.columns + kTurnedColumns - 1) / kTurnedColumns;
  parallelFor(count * cuts, p.cancel, [&](int64_t task) {
    const int64_t block = task / cuts, begin = task % cuts * kTurnedColumns;
    const int64_t end = std::min(s.columns, begin + kTurnedColumns), rows = blocks.size(first + block);
    float* to = turned + block * each;
    if (rows == 1)
      widen(p.x, p.xDType, blocks.begin(first + block) * s.columns + begin, end - begin, to + begin);
    else
      turnRows<D>(p.x, s.columns, blocks.begin(first + block), rows, begin, end, to, roundUp(rows, kLanes));
  });
  const int64_t pieces = (s.rows + kPieceRows - 1) / kPieceRows;
  const Split split = splitWork(pieces, kPieceRows * kLanes * (4 + s.count / std::max<int64_t>(1, s.rows)));
  parallelFor(count * split.tasks, p.cancel, [&](int64_t task) {
    const int64_t block = first + task / split.tasks, rows = blocks.size(block);
    float out[kBlockVectors * kLanes * kPieceRows];
    for (int64_t piece = split.begin(task % split.tasks); piece < split.end(task % split.tasks); ++piece) {
      const int64_t begin = piece * kPieceRows, end = std::min(s.rows, begin + kPieceRows);
      blockRows(p, weights, turned + (block - first) * each, rows, begin, end, out);
      for (int64_t m = 0; m < rows; ++m)
        finishRow(p, out + m * kPieceRows, (blocks.begin(block) + m) * s.rows + begin, end - begin);
    }
  });
}

// A slab of rows of a and b, transposed, [features, stride] each.
constexpr int64_t kSlabRows = 256;

template <class D>
void turnSlab(const FloatView& x, int64_t columns, int64_t first, int64_t rows, float* to, const CancelFlag* cancel) {
  const int64_t cuts = (columns + kTurnedColumns - 1) / kTurnedColumns;
  parallelFor(cuts, cancel, [&](int64_t cut) {
    const int64_t begin = cut * kTurnedColumns, end = std::min(columns, begin + kTurnedColumns);
    turnRows<D>(x.data, columns, first, rows, begin, end, to, roundUp(rows, kLanes));
  });
}

float dotOfRows(const float* a, const float* b, int64_t n) {  // n: whole vectors
  Vec chain[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) chain[v] = fma(load(a + i + v * kLanes), load(b + i + v * kLanes), chain[v]);
  for (int v = 0; i < n; i += kLanes, ++v) chain[v] = fma(load(a + i), load(b + i), chain[v]);
  return sum((chain[0] + chain[1]) + (chain[2] + chain[3]));
}

// The rows of the positions [begin, end) in turn: f(p, row).
template <class F>
RANKONE_INLINE void eachPosition(const SparsePattern& s, int64_t begin, int64_t end, F&& f) {
  int64_t row = 0, beyond = s.rows;  // the last row that begins at `begin` or before
  while (beyond - row > 1) {
    const int64_t middle = (row + beyond) / 2;
    (s.first[middle] <= begin ? row : beyond) = middle;
  }
  for (int64_t p = begin; p < end; ++p) {
    while (s.first[row + 1] <= p) ++row;
    f(p, row);
  }
}

template <class D>
void scatterRows(const ScatterAddArgs& p, const float* weights, int64_t begin, int64_t end, float* row) {
  const SparsePattern& s = p.pattern;
  for (int64_t i = begin; i < end; ++i) {
    auto* w = elements<D>(p.w, i * s.columns);
    if constexpr (std::is_same_v<D, F32>) {
      for (int64_t e = s.first[i]; e < s.first[i + 1]; ++e) w[s.column[e]] += weights[e];
    } else {  // rounded once, however many values an element gets
      for (int64_t e = s.first[i]; e < s.first[i + 1]; ++e) row[s.column[e]] = D::one(w + s.column[e]);
      for (int64_t e = s.first[i]; e < s.first[i + 1]; ++e) row[s.column[e]] += weights[e];
      for (int64_t e = s.first[i]; e < s.first[i + 1]; ++e) D::putOne(w + s.column[e], row[s.column[e]]);
    }
  }
}

}  // namespace

void spmm(const SpmmArgs& p) {
  const SparsePattern& s = p.pattern;
  if (p.M == 0 || s.rows == 0) return;
  Blocks blocks{p.M, std::min(p.M, kBlockVectors * kLanes), 0};
  if (blocks.rows > 1) blocks.rows = roundUp(blocks.rows, kLanes);
  blocks.count = (p.M + blocks.rows - 1) / blocks.rows;
  const int64_t each = s.columns * blocks.rows;
  const int64_t group = std::min(blocks.count, std::max<int64_t>(1, kGroupFloats / std::max<int64_t>(1, each)));
  Scratch scratch(alignFloats(s.count) + alignFloats(group * each));
  float *weights = scratch.take(s.count), *turned = scratch.take(group * each);
  orderedValues(p.values, s, p.scale, weights);
  withDType(p.xDType, [&](auto d) {
    for (int64_t first = 0; first < blocks.count; first += group)
      multiplyGroup<decltype(d)>(p, weights, blocks, first, std::min(group, blocks.count - first), turned);
  });
}

// A slab's products are float32 in chains of 4 kLanes; slabs are added in float64.
void sddmm(const SddmmArgs& p) {
  const SparsePattern& s = p.pattern;
  if (s.count == 0) return;
  const int64_t stride = roundUp(std::min(p.M, kSlabRows), kLanes);
  Scratch scratch(alignFloats(s.rows * stride) + alignFloats(s.columns * stride) + alignFloats(2 * s.count));
  float *a = scratch.take(s.rows * stride), *b = scratch.take(s.columns * stride);
  auto* totals = reinterpret_cast<double*>(scratch.take(2 * s.count));
  std::memset(totals, 0, static_cast<size_t>(s.count) * sizeof(double));
  const Split split = splitWork(s.count, 4 * stride + 16);
  for (int64_t first = 0; first < p.M; first += kSlabRows) {
    const int64_t rows = std::min(kSlabRows, p.M - first), width = roundUp(rows, kLanes);
    withDType(p.a.dtype, [&](auto d) { turnSlab<decltype(d)>(p.a, s.rows, first, rows, a, p.cancel); });
    withDType(p.b.dtype, [&](auto d) { turnSlab<decltype(d)>(p.b, s.columns, first, rows, b, p.cancel); });
    parallelFor(split.tasks, p.cancel, [&](int64_t task) {
      eachPosition(s, split.begin(task), split.end(task), [&](int64_t e, int64_t row) {
        totals[e] += dotOfRows(a + row * width, b + s.column[e] * width, width);
      });
    });
  }
  withDType(p.dtype, [&](auto d) {
    using D = decltype(d);
    auto* values = elements<D>(p.values);
    for (int64_t e = 0; e < s.count; ++e) D::putOne(values + s.at(e), static_cast<float>(p.scale * totals[e]));
  });
}

void scatterAdd(const ScatterAddArgs& p) {
  const SparsePattern& s = p.pattern;
  if (s.count == 0) return;
  Scratch scratch(s.count);
  float* weights = scratch.take(s.count);
  orderedValues(p.values, s, p.scale, weights);
  const Split split = splitWork(s.rows, 2 + 8 * s.count / s.rows);
  withDType(p.dtype, [&](auto d) {
    using D = decltype(d);
    constexpr bool kHalf = !std::is_same_v<D, F32>;
    parallelFor(split.tasks, p.cancel, [&](int64_t task) {
      Scratch own(kHalf ? s.columns : 0);
      float* row = own.take(kHalf ? s.columns : 0);
      scatterRows<D>(p, weights, split.begin(task), split.end(task), row);
    });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
