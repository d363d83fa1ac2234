// With r = (mean(x^2) + eps)^-1/2 and h = r x per row:  y = h * weight [* silu(gate)],
// u = dY * weight [* silu(gate)],  dX = r (u - h mean(u h)),  dWeight = sum over rows of dY [* silu(gate)] * h,
// dGate = dY * weight * h * silu'(gate).
// Sums of a row are float32 within 512 elements and float64 across, r is float64 rounded once: relative error of a row
// below 1e-6. dWeight is summed in blocks of 32 rows, then by rowSum. Zhang and Sennrich, "Root Mean Square Layer
// Normalization" (2019); the gate as in Mamba-2's and Gated DeltaNet's output norm.
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kSumPiece = 512;  // elements added in float32
constexpr int64_t kRowBlock = 32;   // rows of a partial dWeight
constexpr double kSmallSquares = 1e-24, kLargeSquares = 1e38;

RANKONE_INLINE float sumFour(const Vec (&acc)[4]) { return sum((acc[0] + acc[1]) + (acc[2] + acc[3])); }

double sumSquares(const float* x, int64_t D) {
  double total = 0;
  for (int64_t piece = 0; piece < D; piece += kSumPiece) {
    const int64_t end = std::min(D, piece + kSumPiece);
    Vec acc[4] = {};
    int64_t i = piece;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const Vec v = load(x + i + j * kLanes);
        acc[j] = fma(v, v, acc[j]);
      }
    }
    for (; i < end; i += kLanes) {
      const Vec v = get(x + i, lanesLeft(i, end));
      acc[0] = fma(v, v, acc[0]);
    }
    total += sumFour(acc);
  }
  // Squares that leave float32's range, on either side.
  if (!(total > kSmallSquares && total < kLargeSquares)) {
    total = 0;
    for (int64_t i = 0; i < D; ++i) total += static_cast<double>(x[i]) * x[i];
  }
  return total;
}

float inverseRms(const float* x, int64_t D, double eps) {
  return static_cast<float>(1 / std::sqrt(sumSquares(x, D) / static_cast<double>(D) + eps));
}

template <bool kGated>
void forwardRow(const RmsNormArgs& p, int64_t row) {
  const float* x = p.x + row * p.D;
  float* y = p.y + row * p.D;
  const Vec r = splat(inverseRms(x, p.D, p.eps));
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    Vec v = get(x + i, n) * r;
    if (p.weight) v *= get(p.weight + i, n);
    if (kGated) v *= silu(get(p.gate + row * p.D + i, n));
    put(y + i, v, n);
  }
}

// dWeight: the partial sum of this row's block, or null.
template <bool kGated>
void backwardRow(const RmsNormBackwardArgs& p, int64_t row, float* dWeight) {
  const float *x = p.x + row * p.D, *dY = p.dY + row * p.D;
  float* dX = p.dX + row * p.D;
  const float scale = inverseRms(x, p.D, p.eps);
  const Vec r = splat(scale);
  double dot = 0;
  for (int64_t piece = 0; piece < p.D; piece += kSumPiece) {
    const int64_t end = std::min(p.D, piece + kSumPiece);
    Vec acc = zero();
    for (int64_t i = piece; i < end; i += kLanes) {
      const int n = lanesLeft(i, end);
      const Vec h = get(x + i, n) * r;
      Vec u = get(dY + i, n);
      if (kGated) {
        const SiluAndSlope s = siluAndSlope(get(p.gate + row * p.D + i, n));
        const Vec dGate = u * h * s.slope;
        put(p.dGate + row * p.D + i, p.weight ? dGate * get(p.weight + i, n) : dGate, n);
        u *= s.value;
      }
      if (dWeight) put(dWeight + i, fma(u, h, get(dWeight + i, n)), n);
      if (p.weight) u *= get(p.weight + i, n);
      put(dX + i, u, n);  // the second pass takes u from here
      acc = fma(u, h, acc);
    }
    dot += sum(acc);
  }
  const Vec mean = splat(static_cast<float>(dot / static_cast<double>(p.D)) * scale);
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    put(dX + i, r * fnma(get(x + i, n), mean, get(dX + i, n)), n);
  }
}

void forwardRows(const RmsNormArgs& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) p.gate ? forwardRow<true>(p, row) : forwardRow<false>(p, row);
}

void backwardBlocks(const RmsNormBackwardArgs& p, float* partial, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    float* dWeight = partial ? partial + block * p.D : nullptr;
    if (dWeight)
      for (int64_t i = 0; i < p.D; ++i) dWeight[i] = 0;
    for (int64_t row = block * kRowBlock; row < std::min(p.rows, (block + 1) * kRowBlock); ++row)
      p.gate ? backwardRow<true>(p, row, dWeight) : backwardRow<false>(p, row, dWeight);
  }
}

}  // namespace

void rmsNorm(const RmsNormArgs& p) {
  const Split s = splitWork(p.rows, (p.gate ? 40 : 10) * p.D);
  parallelFor(s.tasks, p.cancel, [&](int64_t t) { forwardRows(p, s.begin(t), s.end(t)); });
}

void rmsNormBackward(const RmsNormBackwardArgs& p) {
  const int64_t blocks = (p.rows + kRowBlock - 1) / kRowBlock;
  Scratch scratch(p.dWeight ? blocks * p.D : 0);
  float* partial = p.dWeight ? scratch.take(blocks * p.D) : nullptr;  // [blocks, D]
  const Split s = splitWork(blocks, kRowBlock * (p.gate ? 60 : 25) * p.D);
  parallelFor(s.tasks, p.cancel, [&](int64_t t) { backwardBlocks(p, partial, s.begin(t), s.end(t)); });
  if (p.dWeight) rankone::rowSum({partial, p.dWeight, blocks, p.D, p.cancel});
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
