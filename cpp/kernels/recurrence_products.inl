// Small dense products for the backward's chunks: C[M, N] (+)= A[M, Kd] B[Kd, N], A read as scalars, B and C as
// vectors. A tile of C stays in registers: as many accumulators as cover the latency of a multiply-add, and no more
// loads (a scalar per row, a vector per column) than multiply-adds.
namespace rankone {
namespace RANKONE_ISA_NS {

// A(m, x * inner + y) = a[m * rowStride + x * blockStride + y * step]: plain and transposed matrices, and the state in
// column blocks. The row stride is a constant of the product's, so that a tile's rows need no address of their own.
struct Scalars {
  const float* a;
  int64_t step = 1, inner = 0, blocks = 1, blockStride = 0;
};

template <int kRows, int kAcross, int kRowStride>
__attribute__((noinline)) void productTile(const Scalars& A, const float* B, int64_t ldb, float* C, int64_t ldc,
                                           bool accumulate) {
  Vec c[kRows][kAcross];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < kAcross; ++j) c[m][j] = accumulate ? load(C + m * ldc + j * kLanes) : zero();
  const int64_t step = A.step, inner = A.inner;
  for (int64_t x = 0; x < A.blocks; ++x) {
    const float* a = A.a + x * A.blockStride;
    for (int64_t y = 0; y < inner; ++y, B += ldb, a += step) {
      Vec b[kAcross];
#pragma GCC unroll 2
      for (int j = 0; j < kAcross; ++j) b[j] = load(B + j * kLanes);
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const Vec s = splat(a[m * kRowStride]);
#pragma GCC unroll 2
        for (int j = 0; j < kAcross; ++j) c[m][j] = fma(s, b[j], c[m][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < kAcross; ++j) store(C + m * ldc + j * kLanes, c[m][j]);
}

constexpr int kTileRows = kLanes == 16 ? 8 : 4;

template <int kRows, int kRowStride>
RANKONE_INLINE void productRows(const Scalars& A, const float* B, int64_t ldb, float* C, int64_t ldc, int64_t N,
                                bool accumulate) {
  int64_t j = 0;
  if constexpr (kRows <= kTileRows)
    for (; j + 2 * kLanes <= N; j += 2 * kLanes)
      productTile<kRows, 2, kRowStride>(A, B + j, ldb, C + j, ldc, accumulate);
  for (; j < N; j += kLanes) productTile<kRows, 1, kRowStride>(A, B + j, ldb, C + j, ldc, accumulate);
}

// N is a multiple of kLanes.
template <int kRowStride>
void product(int64_t M, int64_t N, Scalars A, const float* B, int64_t ldb, float* C, int64_t ldc, bool accumulate) {
  const int tall = N == kLanes ? 2 * kTileRows : kTileRows;
  while (M > 0) {
    const int rows = M >= tall ? tall : M >= kTileRows ? kTileRows : M >= 4 ? 4 : M >= 2 ? 2 : 1;
    switch (rows) {
      case 2 * kTileRows: productRows<2 * kTileRows, kRowStride>(A, B, ldb, C, ldc, N, accumulate); break;
      case kTileRows: productRows<kTileRows, kRowStride>(A, B, ldb, C, ldc, N, accumulate); break;
#if RANKONE_LEVEL == 2
      case 4: productRows<4, kRowStride>(A, B, ldb, C, ldc, N, accumulate); break;
#endif
      case 2: productRows<2, kRowStride>(A, B, ldb, C, ldc, N, accumulate); break;
      default: productRows<1, kRowStride>(A, B, ldb, C, ldc, N, accumulate);
    }
    M -= rows;
    A.a += rows * kRowStride;
    C += rows * ldc;
  }
}

// to[n][m] = f(from[m][n], m) for m < rows, n < columns, f working on kLanes values of m at a time; columns of `to` up
// to a multiple of kLanes are f(0).
// A type of F costs another copy of the code: those that differ in no more than a lambda are ScaledBy or ScaledByLane.
template <class F>
__attribute__((noinline)) void transposed(const float* from, int64_t ldFrom, int64_t rows, int64_t columns, float* to,
                                          int64_t ldTo, const F& f) {
  for (int64_t m = 0; m < rows; m += kLanes)
    for (int64_t n = 0; n < columns; n += kLanes) {
      const float* corner = from + m * ldFrom + n;
      Vec square[kLanes];
      if (rows - m >= kLanes && columns - n >= kLanes) {
#pragma GCC unroll 16
        for (int x = 0; x < kLanes; ++x) square[x] = load(corner + x * ldFrom);
        transpose(square);
#pragma GCC unroll 16
        for (int x = 0; x < kLanes; ++x) store(to + (n + x) * ldTo + m, f(square[x], m));
        continue;
      }
      const int here = static_cast<int>(rows - m < kLanes ? rows - m : kLanes);
      const int out = static_cast<int>(columns - n < kLanes ? columns - n : kLanes);
      for (int x = 0; x < kLanes; ++x) square[x] = x < here ? loadUpTo(corner + x * ldFrom, out) : zero();
      transpose(square);
      for (int x = 0; x < out; ++x) store(to + (n + x) * ldTo + m, f(square[x], m));
    }
}

struct Unchanged {
  RANKONE_INLINE Vec operator()(Vec x, int64_t) const { return x; }
};
struct ScaledBy {
  float scale;
  RANKONE_INLINE Vec operator()(Vec x, int64_t) const { return x * scale; }
};
struct ScaledByLane {
  const float* scale;
  RANKONE_INLINE Vec operator()(Vec x, int64_t m) const { return x * load(scale + m); }
};

RANKONE_INLINE void transposed(const float* from, int64_t ldFrom, int64_t rows, int64_t columns, float* to,
                               int64_t ldTo) {
  transposed(from, ldFrom, rows, columns, to, ldTo, Unchanged{});
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
