// matmul with one short side (decode: one to eight rows), bound by the memory traffic of the other operand, which is
// read once and never packed. x [R,K] is the short operand, w the long one. Part of matmul.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kNarrow = 8;
constexpr int64_t kStripe = 512;  // columns of a task

struct Narrow {
  const float* x;  // [R,K]
  Operand w;       // side: the columns of the result
  int64_t K;
  const float* bias;      // null, or one per element of the side that biasStep walks
  int64_t biasRow, biasColumn;
  float* y;  // element (row, column) at y[row * yRow + column * yColumn]
  int64_t yRow, yColumn;
};

RANKONE_INLINE void put(const Narrow& p, int64_t row, int64_t column, float value) {
  if (p.bias) value += p.bias[row * p.biasRow + column * p.biasColumn];
  p.y[row * p.yRow + column * p.yColumn] = value;
}

// w runs along K: dot products, C columns at a time.
template <int R, int C>
void dotColumns(const Narrow& p, int64_t column) {
  Vec acc[R][C];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) acc[i][j] = zero();
  const float* w = p.w.at(column, 0);
  int64_t k = 0;
  for (; k + kLanes <= p.K; k += kLanes) {
    Vec b[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) b[j] = load(w + j * p.w.ld + k);
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
      const Vec b = loadPart(w + j * p.w.ld + k, rest);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) acc[i][j] = fma(loadPart(p.x + i * p.K + k, rest), b, acc[i][j]);
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) put(p, i, column + j, sum(acc[i][j]));
}

template <int R>
void dotStripe(const Narrow& p, int64_t begin, int64_t end) {
  // several columns hide the latency of a row's one chain of additions
  constexpr int kColumns = R == 1 ? 8 : R <= 4 ? 4 : kLanes == 16 ? 3 : 1;
  int64_t n = begin;
  for (; n + kColumns <= end; n += kColumns) dotColumns<R, kColumns>(p, n);
  for (; n < end; ++n) dotColumns<R, 1>(p, n);
}

// w runs along the columns: y += x_k w_k, U steps of K per pass over the stripe of y, which stays in L1.
template <int R, int U>
RANKONE_INLINE void axpySteps(const Narrow& p, int64_t k, int64_t begin, int64_t width, float* y) {
  const float* w = p.w.at(begin, k);
  const float* x = p.x + k;
  const int64_t ahead = std::min<int64_t>(U, p.K - U - k) * p.w.ld;
  for (int64_t n = 0; n < width; n += kLanes) {
    const int rest = width - n < kLanes ? static_cast<int>(width - n) : kLanes;
    Vec acc[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) acc[i] = load(y + i * kStripe + n);
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
      const float* row = w + u * p.w.ld + n;
      if (U > 1) __builtin_prefetch(row + ahead);
      const Vec b = rest == kLanes ? load(row) : loadPart(row, rest);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) acc[i] = fma(broadcast(x + i * p.K + u), b, acc[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) store(y + i * kStripe + n, acc[i]);
  }
}

template <int R>
void axpyStripe(const Narrow& p, int64_t begin, int64_t end) {
  const int64_t width = end - begin;
  Scratch scratch(R * kStripe);
  float* y = scratch.take(R * kStripe);
  for (int64_t i = 0; i < R * kStripe; i += kLanes) store(y + i, zero());
  int64_t k = 0;
  for (; k + 8 <= p.K; k += 8) axpySteps<R, 8>(p, k, begin, width, y);
  for (; k < p.K; ++k) axpySteps<R, 1>(p, k, begin, width, y);
  for (int i = 0; i < R; ++i)
    for (int64_t n = 0; n < width; ++n) put(p, i, begin + n, y[i * kStripe + n]);
}

template <int R>
void narrowStripe(const Narrow& p, int64_t rows, int64_t begin, int64_t end) {
  if constexpr (R > 1)
    if (rows < R) return narrowStripe<R - 1>(p, rows, begin, end);
  p.w.alongK ? dotStripe<R>(p, begin, end) : axpyStripe<R>(p, begin, end);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
