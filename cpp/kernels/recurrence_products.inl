// Small dense products for the backward's chunks: C[M, N] (+)= A[M, Kd] B[Kd, N], A read as scalars, B and C as
// vectors.
namespace rankone {
namespace RANKONE_ISA_NS {

// A(m, x * inner + y) = a[m * rowStride + x * blockStride + y * stepStride]: plain and transposed matrices, and the
// state in column blocks.
struct Scalars {
  const float* a;
  int64_t rowStride, stepStride = 1, inner = 0, blocks = 1, blockStride = 0;
};

template <int kRows, int kAcross>
__attribute__((noinline)) void productTile(const Scalars& A, const float* B, int64_t ldb, float* C, int64_t ldc,
                                           bool accumulate) {
  Vec c[kRows][kAcross];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < kAcross; ++j) c[m][j] = accumulate ? load(C + m * ldc + j * kLanes) : zero();
  for (int64_t x = 0; x < A.blocks; ++x) {
    const float* a = A.a + x * A.blockStride;
    for (int64_t y = 0; y < A.inner; ++y, B += ldb, a += A.stepStride) {
      Vec b[kAcross];
#pragma GCC unroll 2
      for (int j = 0; j < kAcross; ++j) b[j] = load(B + j * kLanes);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        const Vec s = splat(a[m * A.rowStride]);
#pragma GCC unroll 2
        for (int j = 0; j < kAcross; ++j) c[m][j] = fma(s, b[j], c[m][j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
    for (int j = 0; j < kAcross; ++j) store(C + m * ldc + j * kLanes, c[m][j]);
}

constexpr int kTileRows = kLanes == 16 ? 8 : 4;

template <int kRows>
RANKONE_INLINE void productRows(const Scalars& A, const float* B, int64_t ldb, float* C, int64_t ldc, int64_t N,
                                bool accumulate) {
  int64_t j = 0;
  for (; j + 2 * kLanes <= N; j += 2 * kLanes) productTile<kRows, 2>(A, B + j, ldb, C + j, ldc, accumulate);
  if (j < N) productTile<kRows, 1>(A, B + j, ldb, C + j, ldc, accumulate);
}

// N is a multiple of kLanes.
static void product(int64_t M, int64_t N, Scalars A, const float* B, int64_t ldb, float* C, int64_t ldc,
                    bool accumulate) {
  if (A.inner <= 0) {
    for (int64_t m = 0; m < M && !accumulate; ++m) std::memset(C + m * ldc, 0, N * sizeof(float));
    return;
  }
  while (M > 0) {
    const int rows = M >= kTileRows ? kTileRows : M >= 4 ? 4 : M >= 2 ? 2 : 1;
    switch (rows) {
      case kTileRows: productRows<kTileRows>(A, B, ldb, C, ldc, N, accumulate); break;
#if RANKONE_LEVEL == 2
      case 4: productRows<4>(A, B, ldb, C, ldc, N, accumulate); break;
#endif
      case 2: productRows<2>(A, B, ldb, C, ldc, N, accumulate); break;
      default: productRows<1>(A, B, ldb, C, ldc, N, accumulate);
    }
    M -= rows;
    A.a += rows * A.rowStride;
    C += rows * ldc;
  }
}

// to[n][m] = from[m][n] for m < rows, n < columns; columns of `to` up to a multiple of kLanes are filled with zero.
static void transposed(const float* from, int64_t ldFrom, int64_t rows, int64_t columns, float* to, int64_t ldTo) {
  for (int64_t m = 0; m < rows; m += kLanes)
    for (int64_t n = 0; n < columns; n += kLanes) {
      const int64_t here = rows - m < kLanes ? rows - m : kLanes, out = columns - n < kLanes ? columns - n : kLanes;
      Vec square[kLanes];
      for (int64_t x = 0; x < kLanes; ++x) square[x] = x < here ? load(from + (m + x) * ldFrom + n) : zero();
      transpose(square);
      for (int64_t x = 0; x < out; ++x) store(to + (n + x) * ldTo + m, square[x]);
    }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
