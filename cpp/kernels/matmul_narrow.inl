// matmul with one short side (decode: one to eight rows), bound by the memory traffic of the other operand, which is
// read once, as it lies, and never packed. x [R,K] is the short operand, w the long one. Part of matmul.inl.
// S is how elements are read (core/half.inl); x becomes float32 first, w as it is loaded.
#include "kernels/matmul_block.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kNarrow = 8;
constexpr int kNarrowRows = kLanes == 16 ? 4 : kNarrow;  // the same for a b that isCompact()
constexpr int64_t kDotColumns = 64;                      // of a task, where w runs along K
constexpr int64_t kStripeFloats = 4096;    // of the piece of y, all rows together, that stays in L1 where it does not
constexpr int64_t kChunkFloats = 1 << 18;  // of w, where K is cut
constexpr int64_t kMaxChunks = 16;

template <class S>
struct Narrow {
  const float* x;  // [rows,K]
  Operand<S> w;    // its side: the columns of the result
  int64_t R, rows, K, columns;
  const float* bias;  // null: none; else of element (row, column) at row * biasRow + column * biasColumn
  int64_t biasRow, biasColumn;
  void* y;  // element (row, column) at yFirst + row * yRow + column * yColumn
  DType yDType;
  int64_t yFirst, yRow, yColumn;
};

// Rows to compute: R, or, where kernels for every R would be too much code, 1, 4 or 8, the last of them zeros.
template <class S>
int64_t rowsFor(int64_t R) {
  if (std::is_same_v<S, F32> || R == 1) return R;
  return R <= 4 ? 4 : kNarrow;
}
template <int R, class S>
constexpr int kFewer = std::is_same_v<S, F32> ? R - 1
                       : R > 4                ? 4
                                              : 1;

__attribute__((noinline)) void putHalf(void* y, DType dtype, int64_t at, float value) {
  if (dtype == DType::BF16)
    BF16::putOne(static_cast<uint16_t*>(y) + at, value);
  else
    F16::putOne(static_cast<uint16_t*>(y) + at, value);
}

template <class S>
RANKONE_INLINE void put(const Narrow<S>& p, int64_t row, int64_t column, float value) {
  if (p.bias) value += p.bias[row * p.biasRow + column * p.biasColumn];
  const int64_t at = p.yFirst + row * p.yRow + column * p.yColumn;
  if (p.yDType == DType::F32)
    static_cast<float*>(p.y)[at] = value;
  else
    putHalf(p.y, p.yDType, at, value);
}

// w runs along K: dot products, C columns at a time.
template <int R, int C, class S>
void dotColumns(const Narrow<S>& p, int64_t column) {
  Vec acc[R][C];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) acc[i][j] = zero();
  const auto* w = p.w.at(column, 0);
  int64_t k = 0;
  for (; k + kLanes <= p.K; k += kLanes) {
    Vec b[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) {
      b[j] = S::load(w + j * p.w.ld + k);
      __builtin_prefetch(w + (C + j) * p.w.ld + k, 0, 2);  // a line is often a page, where hardware prefetch ends
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec a = load(p.x + i * p.K + k);
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) acc[i][j] = fma(a, b[j], acc[i][j]);
    }
  }
  if (k < p.K) {
    const int rest = static_cast<int>(p.K - k);
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) {
      const Vec b = S::loadPart(w + j * p.w.ld + k, rest);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) acc[i][j] = fma(loadPart(p.x + i * p.K + k, rest), b, acc[i][j]);
    }
  }
  for (int i = 0; i < R && i < p.R; ++i)
    for (int j = 0; j < C; ++j) put(p, i, column + j, sum(acc[i][j]));
}

template <int R, class S>
void dotStripe(const Narrow<S>& p, int64_t begin, int64_t end) {
  // several columns hide the latency of a row's one chain of additions
  constexpr int kColumns = R == 1 ? 8 : R <= 4 ? 4 : kLanes == 16 ? 3 : 1;
  int64_t n = begin;
  for (; n + kColumns <= end; n += kColumns) dotColumns<R, kColumns>(p, n);
  for (; n < end; ++n) dotColumns<R, 1>(p, n);
}

// w runs along the columns: y += x_k w_k, U steps of K per pass over y [R, stripe], V vectors at a time (the last one
// may be cut short, `lanes`).
template <class S, int R, int U, int V>
RANKONE_INLINE void axpyVectors(const float* x, int64_t K, const typename S::Element* w, int64_t ld, int64_t ahead,
                                int lanes, float* y, int64_t stripe) {
  Vec acc[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) acc[i][v] = load(y + i * stripe + v * kLanes);
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) {
    const auto* row = w + u * ld;
    Vec b[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      if (U > 1) __builtin_prefetch(row + v * kLanes + ahead, 0, 2);
      if (V > 1 || lanes == kLanes)
        b[v] = S::load(row + v * kLanes);
      else
        b[v] = S::loadPart(row, lanes);
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const Vec a = broadcast(x + i * K + u);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[i][v] = fma(a, b[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(y + i * stripe + v * kLanes, acc[i][v]);
}

template <int R, int U, class S>
void axpySteps(const Narrow<S>& p, int64_t k, int64_t begin, int64_t width, float* y, int64_t stripe) {
  const auto* w = p.w.at(begin, k);
  const float* x = p.x + k;
  const int64_t ahead = std::min<int64_t>(U, p.K - U - k) * p.w.ld;
  int64_t n = 0;
  for (; n + 2 * kLanes <= width; n += 2 * kLanes)
    axpyVectors<S, R, U, 2>(x, p.K, w + n, p.w.ld, ahead, kLanes, y + n, stripe);
  for (; n < width; n += kLanes) {
    const int lanes = width - n < kLanes ? static_cast<int>(width - n) : kLanes;
    axpyVectors<S, R, U, 1>(x, p.K, w + n, p.w.ld, ahead, lanes, y + n, stripe);
  }
}

// Steps [k0, k1) of columns [begin, begin + width) into y [R, stripe].
template <int R, class S>
void axpyPiece(const Narrow<S>& p, int64_t k0, int64_t k1, int64_t begin, int64_t width, float* y, int64_t stripe) {
  for (int64_t i = 0; i < R * stripe; i += kLanes) store(y + i, zero());
  int64_t k = k0;
  for (; k + 8 <= k1; k += 8) axpySteps<R, 8>(p, k, begin, width, y, stripe);
  for (; k < k1; ++k) axpySteps<R, 1>(p, k, begin, width, y, stripe);
}

template <int R, class S>
void dotRows(const Narrow<S>& p, int64_t begin, int64_t end) {
  if constexpr (R > 1)
    if (p.rows < R) return dotRows<kFewer<R, S>>(p, begin, end);
  dotStripe<R>(p, begin, end);
}

template <int R, class S>
void axpyRows(const Narrow<S>& p, int64_t k0, int64_t k1, int64_t begin, int64_t width, float* y, int64_t stripe) {
  if constexpr (R > 1)
    if (p.rows < R) return axpyRows<kFewer<R, S>>(p, k0, k1, begin, width, y, stripe);
  axpyPiece<R>(p, k0, k1, begin, width, y, stripe);
}

// The cut of one product by shape. Where w runs along the columns its rows are read in long runs, and K is cut instead:
// the chunks' sums are added up at the end.
struct NarrowCut {
  int64_t stripe, stripes, steps, chunks;
  int64_t pieces() const { return stripes * chunks; }
  int64_t floats(int64_t rows) const { return pieces() * rows * stripe; }
};

template <class S>
NarrowCut cutNarrow(const Narrow<S>& p) {
  NarrowCut c;
  c.stripe = p.w.alongK ? kDotColumns : std::min(roundUp(p.columns, kLanes), kStripeFloats / p.rows / kLanes * kLanes);
  c.stripes = (p.columns + c.stripe - 1) / c.stripe;
  const int64_t wanted = p.w.alongK ? 1 : (p.K * p.columns + kChunkFloats - 1) / kChunkFloats;
  c.steps = roundUp((p.K + wanted - 1) / wanted, 8);
  if (wanted > kMaxChunks) c.steps = roundUp((p.K + kMaxChunks - 1) / kMaxChunks, 8);
  c.chunks = (p.K + c.steps - 1) / c.steps;
  return c;
}

// partial: [chunks][stripes][rows * stripe] of this product
template <class S>
void narrowPiece(const Narrow<S>& p, const NarrowCut& c, int64_t piece, float* partial) {
  const int64_t begin = piece % c.stripes * c.stripe, end = std::min(p.columns, begin + c.stripe);
  if (p.w.alongK) return dotRows<kNarrow>(p, begin, end);
  const int64_t k0 = piece / c.stripes * c.steps;
  axpyRows<kNarrow>(p, k0, std::min(p.K, k0 + c.steps), begin, end - begin, partial + piece * p.rows * c.stripe,
                    c.stripe);
}

template <class S>
void addChunks(const Narrow<S>& p, const NarrowCut& c, const float* partial) {
  for (int64_t i = 0; i < p.R; ++i)
    for (int64_t n = 0; n < p.columns; n += kLanes) {
      const float* from = partial + (n / c.stripe * p.rows + i) * c.stripe + n % c.stripe;
      Vec total = zero();
      for (int64_t chunk = 0; chunk < c.chunks; ++chunk) total += load(from + chunk * c.stripes * p.rows * c.stripe);
      float values[kLanes];
      store(values, total);
      for (int64_t j = 0; j < kLanes && n + j < p.columns; ++j) put(p, i, n + j, values[j]);
    }
}

// Which operand is the short one, and its rows [rows,K] of every product.
struct NarrowSide {
  bool swapped;    // y^T = op(b)^T op(a)^T: the short side is N
  const float* x;  // [batch, rows,K], or one for all
  int64_t step;    // from one product's to the next one's
};

template <class S>
Narrow<S> narrowProduct(const MatmulArgs& p, const NarrowSide& side, int64_t i) {
  const auto *a = static_cast<const typename S::Element*>(p.a), *b = static_cast<const typename S::Element*>(p.b);
  Narrow<S> q;
  q.x = side.x + i * side.step;
  q.w = side.swapped ? Operand<S>{a + i * p.aStep, p.transposeA ? p.M : p.K, !p.transposeA}
                     : Operand<S>{b + i * p.bStep, p.transposeB ? p.K : p.N, p.transposeB};
  q.R = side.swapped ? p.N : p.M;
  q.rows = rowsFor<S>(q.R);
  q.K = p.K;
  q.columns = side.swapped ? p.M : p.N;
  q.bias = static_cast<const float*>(p.bias);
  q.biasRow = side.swapped ? 1 : 0;
  q.biasColumn = side.swapped ? 0 : 1;
  q.y = p.y;
  q.yDType = p.yDType;
  q.yFirst = i * p.M * p.N;
  q.yRow = side.swapped ? 1 : p.N;
  q.yColumn = side.swapped ? p.N : 1;
  return q;
}

// A short operand as float32 [rows,K], out of [R,K] or, across, of [K,R].
template <class S>
void copyRows(const typename S::Element* from, bool across, const Narrow<S>& p, float* to) {
  if (across) {
    for (int64_t k = 0; k < p.K; ++k)
      for (int64_t i = 0; i < p.R; ++i) to[i * p.K + k] = S::one(from + k * p.R + i);
  } else {
    widenElements<S>(from, p.R * p.K, to);
  }
  std::memset(to + p.R * p.K, 0, static_cast<size_t>((p.rows - p.R) * p.K) * sizeof(float));
}

template <class S>
void narrowPieces(const MatmulArgs& p, const NarrowSide& side, const NarrowCut& cut, float* partial, int64_t begin,
                  int64_t end) {
  for (int64_t piece = begin; piece < end; ++piece) {
    const int64_t i = piece / cut.pieces();
    const Narrow<S> q = narrowProduct<S>(p, side, i);
    narrowPiece(q, cut, piece % cut.pieces(), partial + i * cut.floats(q.rows));
  }
}

template <class D>
bool isNarrow(const MatmulArgs& p) {
  return p.reduce == 1 && std::min(p.M, p.N) <= (p.N >= p.M && isCompact<D>(p) ? kNarrowRows : kNarrow);
}

template <class S>
void narrowMatmul(const MatmulArgs& p) {
  NarrowSide side{p.N < p.M, nullptr, 0};
  const auto* x = static_cast<const typename S::Element*>(side.swapped ? p.b : p.a);
  const int64_t step = side.swapped ? p.bStep : p.aStep;
  const Narrow<S> first = narrowProduct<S>(p, side, 0);
  const NarrowCut cut = cutNarrow(first);
  const bool across = first.R > 1 && (side.swapped ? !p.transposeB : p.transposeA);
  const bool copied = across || !std::is_same_v<S, F32>;
  const int64_t copies = copied ? (step ? p.batch : 1) : 0, rowFloats = first.rows * p.K;
  const int64_t partialFloats = first.w.alongK ? 0 : p.batch * cut.floats(first.rows);
  Scratch scratch(alignFloats(copies * rowFloats) + alignFloats(partialFloats));
  if constexpr (std::is_same_v<S, F32>) {
    side.x = x;
    side.step = step;
  }
  if (copied) {
    float* rows = scratch.take(copies * rowFloats);
    for (int64_t i = 0; i < copies; ++i) copyRows(x + i * step, across, first, rows + i * rowFloats);
    side.x = rows;
    side.step = step ? rowFloats : 0;
  }
  float* partial = scratch.take(partialFloats);
  // the traffic counts, not the flops: four bytes of w per 2R flops
  const Split split = splitWork(p.batch * cut.pieces(), 8 * cut.steps * std::min(first.columns, cut.stripe));
  parallelFor(split.tasks, p.cancel,
              [&](int64_t t) { narrowPieces<S>(p, side, cut, partial, split.begin(t), split.end(t)); });
  if (!first.w.alongK)
    for (int64_t i = 0; i < p.batch; ++i)
      addChunks(narrowProduct<S>(p, side, i), cut, partial + i * cut.floats(first.rows));
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
