// Small products and the layer norm of TTT-Linear, over rows of D floats that lie `ld` apart, padded with zeros. Part
// of ttt_linear.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

template <class F>
RANKONE_INLINE void overRow(int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += kLanes) f(i, lanesLeft(i, n));
}
RANKONE_INLINE Vec firstLanes(Vec x, int n) {
  if (n == kLanes) return x;
  float t[kLanes];
  store(t, x);
  return loadPart(t, n);
}

// Rows of A as a product takes them: element (i, k) at i * row + k * column.
struct Factor {
  const float* data;
  int64_t row, column;
};

// C (+)= sign A B for kRows rows of C from i on. Sums run in ascending order of k.
template <int kRows, bool kAdd>
RANKONE_INLINE void productRows(const Factor& a, int64_t i, int64_t inner, const float* B, int64_t ld, float* C,
                                float sign) {
  for (int64_t c = 0; c < ld; c += kLanes) {
    Vec sums[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sums[r] = zero();
    for (int64_t k = 0; k < inner; ++k) {
      const Vec b = load(B + k * ld + c);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r] = fma(splat(a.data[(i + r) * a.row + k * a.column]), b, sums[r]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      float* to = C + (i + r) * ld + c;
      store(to, kAdd ? fma(splat(sign), sums[r], load(to)) : sums[r] * sign);
    }
  }
}

// C [rows][ld] (+)= sign A B, B [inner][ld].
template <bool kAdd>
__attribute__((noinline)) void product(const Factor& a, int64_t rows, int64_t inner, const float* B, int64_t ld,
                                       float* C, float sign = 1) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) productRows<4, kAdd>(a, i, inner, B, ld, C, sign);
  for (; i < rows; ++i) productRows<1, kAdd>(a, i, inner, B, ld, C, sign);
}

// x . y of padded rows.
RANKONE_INLINE float rowDot(const float* x, const float* y, int64_t ld) {
  Vec s = zero();
  for (int64_t i = 0; i < ld; i += kLanes) s = fma(load(x + i), load(y + i), s);
  return sum(s);
}

// [ld][ld], whose rows and columns from D on are zero.
inline void transposeSquare(const float* from, int64_t ld, float* to) {
  for (int64_t i = 0; i < ld; i += kLanes)
    for (int64_t j = 0; j < ld; j += kLanes) {
      Vec square[kLanes];
      for (int r = 0; r < kLanes; ++r) square[r] = load(from + (i + r) * ld + j);
      transpose(square);
      for (int r = 0; r < kLanes; ++r) store(to + (j + r) * ld + i, square[r]);
    }
}

// x <- (x - mean) / sqrt(var + eps); returns the reciprocal of that root.
inline float standardise(float* x, int64_t D, float eps) {
  Vec total = zero();
  overRow(D, [&](int64_t i, int) { total += load(x + i); });
  const float mean = static_cast<float>(static_cast<double>(sum(total)) / static_cast<double>(D));
  Vec squares = zero();
  overRow(D, [&](int64_t i, int n) {
    const Vec d = firstLanes(load(x + i) - mean, n);
    store(x + i, d);
    squares = fma(d, d, squares);
  });
  const double by = 1 / std::sqrt(static_cast<double>(sum(squares)) / static_cast<double>(D) + eps);
  overRow(D, [&](int64_t i, int) { store(x + i, load(x + i) * static_cast<float>(by)); });
  return static_cast<float>(by);
}

// (g - mean(g) - xhat mean(g xhat)) / root: the gradient through standardise(), with xhat what it left.
inline void throughNorm(const float* g, const float* xhat, float by, int64_t D, float* to) {
  Vec total = zero(), along = zero();
  overRow(D, [&](int64_t i, int) {
    total += load(g + i);
    along = fma(load(g + i), load(xhat + i), along);
  });
  const float mean = sum(total) / static_cast<float>(D), share = sum(along) / static_cast<float>(D);
  overRow(D, [&](int64_t i, int n) {
    store(to + i, firstLanes(fnma(splat(share), load(xhat + i), load(g + i) - mean) * by, n));
  });
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
