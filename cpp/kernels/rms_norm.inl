// With r = (mean(x^2) + eps)^-1/2 and h = r x per row:  y = h * weight [* act(gate)],
// u = dY * weight [* act(gate)],  dX = r (u - h mean(u h)),  dWeight = sum over rows of dY [* act(gate)] * h,
// dGate = dY * weight * h * act'(gate). Gated first, z = x * act(gate) stands for x in all of that, and
// dX = dZ * act(gate),  dGate = dZ * x * act'(gate). The L2 norm has sums where these have means. act: silu, sigmoid.
// Sums of a row are float32 within 512 elements and float64 across, r is float64 rounded once: relative error of a row
// below 1e-6 before it is rounded to its dtype. dWeight is summed in blocks of 32 rows, then by rowSum. Zhang and
// Sennrich, "Root Mean Square Layer Normalization" (2019); gates as in the output norms of Mamba-2 (first), Gated
// DeltaNet (silu) and Kimi Delta Attention (sigmoid).
#include "kernels/elementwise.inl"
#include "kernels/rows.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kSumPiece = 512;  // elements added in float32
constexpr int64_t kRowBlock = 32;   // rows of a partial dWeight
constexpr double kSmallSquares = 1e-24, kLargeSquares = 1e38;

RANKONE_INLINE float sumFour(const Vec (&acc)[4]) { return sum((acc[0] + acc[1]) + (acc[2] + acc[3])); }

template <class D>
double sumSquares(const typename D::Element* x, int64_t width) {
  double total = 0;
  for (int64_t piece = 0; piece < width; piece += kSumPiece) {
    const int64_t end = std::min(width, piece + kSumPiece);
    Vec acc[4] = {};
    int64_t i = piece;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const Vec v = D::load(x + i + j * kLanes);
        acc[j] = fma(v, v, acc[j]);
      }
    }
    for (; i < end; i += kLanes) {
      const Vec v = get<D>(x + i, lanesLeft(i, end));
      acc[0] = fma(v, v, acc[0]);
    }
    total += sumFour(acc);
  }
  // Squares that leave float32's range, on either side.
  if (!(total > kSmallSquares && total < kLargeSquares)) {
    total = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double v = D::one(x + i);
      total += v * v;
    }
  }
  return total;
}

// 1 / rms(x), or 1 / |x|
template <class D>
float inverseNorm(const typename D::Element* x, int64_t width, double eps, const NormForm& form) {
  return static_cast<float>(1 / std::sqrt(sumSquares<D>(x, width) / (form.l2 ? 1 : static_cast<double>(width)) + eps));
}

// What a task of the backward works with, in float32.
struct BackwardRow {
  const float* weight;  // [D], or null
  float* dWeight;       // [D]: the partial sum of the row's block, or null
  float* u;             // [D]: room for u where dX is not float32
  float* z;             // [D]: room for the gated x, gated first
};

template <class D>
void forwardRow(const RmsNormArgs& p, const float* weight, int64_t row) {
  const auto* x = elements<D>(p.x, row * p.D);
  auto* y = elements<D>(p.y, row * p.D);
  const Vec r = splat(inverseNorm<D>(x, p.D, p.eps, p.form));
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    const Vec v = get<D>(x + i, n) * r;
    put<D>(y + i, weight ? v * get(weight + i, n) : v, n);
  }
}

template <class D, class G>
void backwardRow(const RmsNormBackwardArgs& p, int64_t row, const BackwardRow& task) {
  const auto *x = elements<D>(p.x, row * p.D), *dY = elements<D>(p.dY, row * p.D);
  auto* dX = elements<G>(p.dX, row * p.D);
  float* us = task.u;
  if constexpr (std::is_same_v<G, F32>) us = dX;
  const float scale = inverseNorm<D>(x, p.D, p.eps, p.form);
  const Vec r = splat(scale);
  double dot = 0;
  for (int64_t piece = 0; piece < p.D; piece += kSumPiece) {
    const int64_t end = std::min(p.D, piece + kSumPiece);
    Vec acc = zero();
    for (int64_t i = piece; i < end; i += kLanes) {
      const int n = lanesLeft(i, end);
      const Vec h = get<D>(x + i, n) * r;
      Vec u = get<D>(dY + i, n);
      if (task.dWeight) put(task.dWeight + i, fma(u, h, get(task.dWeight + i, n)), n);
      if (task.weight) u *= get(task.weight + i, n);
      put(us + i, u, n);  // the second pass takes u from here
      acc = fma(u, h, acc);
    }
    dot += sum(acc);
  }
  const Vec mean = splat(static_cast<float>(dot / (p.form.l2 ? 1 : static_cast<double>(p.D))) * scale);
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    put<G>(dX + i, r * fnma(get<D>(x + i, n), mean, get(us + i, n)), n);
  }
}

// act(x), of both activations in one body.
RANKONE_INLINE Vec gateValue(Vec x, IVec isSigmoid) { return select(isSigmoid, splat(1.0f), x) * sigmoid(x); }
RANKONE_INLINE SiluAndSlope gateAndSlope(Vec x, IVec isSigmoid) {
  const Vec least = splat(-88.0f), bounded = atLeast(x, least);  // as in siluAndSlope()
  const Vec e = exp(-bounded), all = splat(1.0f) / (e + 1.0f), s = select(x < least, zero(), all);
  return {select(isSigmoid, all, bounded * s), select(isSigmoid, all * (e * all), s * (bounded * (e * s) + 1.0f))};
}
RANKONE_INLINE IVec everyLane(bool on) { return IVec{} - static_cast<int32_t>(on); }

// One row of a gated call: gated first, the norm is that of z = x * act(gate).
struct GatedRow {
  AnyRow x, gate;
  IVec isSigmoid;
  float* z;  // [D]: room for z
  template <class Args>
  GatedRow(const Args& p, int64_t row, float* room)
      : x(p.x, p.dtype, row * p.D),
        gate(p.gate, p.dtype, row * p.D),
        isSigmoid(everyLane(p.form.sigmoid)),
        z(p.form.gateFirst ? room : nullptr) {
    if (!z) return;
    for (int64_t i = 0; i < p.D; i += kLanes) {
      const int n = lanesLeft(i, p.D);
      put(z + i, get(x, i, n) * gateValue(get(gate, i, n), isSigmoid), n);
    }
  }
  template <class Args>
  float inverse(const Args& p) const {
    if (z) return inverseNorm<F32>(z, p.D, p.eps, p.form);
    return withDType(
        x.dtype, [&](auto d) { return inverseNorm<decltype(d)>(elements<decltype(d)>(x.data), p.D, p.eps, p.form); });
  }
  // What is normalised.
  RANKONE_INLINE Vec at(int64_t i, int n) const { return z ? get(z + i, n) : get(x, i, n); }
};

void forwardRowGated(const RmsNormArgs& p, const float* weight, int64_t row, float* room) {
  const GatedRow given(p, row, room);
  const AnyOutput y(p.y, p.dtype, row * p.D);
  const Vec r = splat(given.inverse(p));
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    Vec v = given.at(i, n) * r;
    if (weight) v *= get(weight + i, n);
    if (!given.z) v *= gateValue(get(given.gate, i, n), given.isSigmoid);
    put(y, i, v, n);
  }
}

void backwardRowGated(const RmsNormBackwardArgs& p, int64_t row, const BackwardRow& task) {
  const GatedRow given(p, row, task.z);
  const AnyRow dY(p.dY, p.dtype, row * p.D);
  const AnyOutput dX(p.dX, p.gradDType, row * p.D), dGate(p.dGate, p.gradDType, row * p.D);
  float* us = p.gradDType == DType::F32 ? elements<F32>(dX.data) : task.u;
  const float scale = given.inverse(p);
  const Vec r = splat(scale);
  double dot = 0;
  for (int64_t piece = 0; piece < p.D; piece += kSumPiece) {
    const int64_t end = std::min(p.D, piece + kSumPiece);
    Vec acc = zero();
    for (int64_t i = piece; i < end; i += kLanes) {
      const int n = lanesLeft(i, end);
      const Vec h = given.at(i, n) * r, weight = task.weight ? get(task.weight + i, n) : splat(1.0f);
      Vec u = get(dY, i, n);
      if (!given.z) {
        const SiluAndSlope s = gateAndSlope(get(given.gate, i, n), given.isSigmoid);
        put(dGate, i, u * h * s.slope * weight, n);
        u *= s.value;
      }
      if (task.dWeight) put(task.dWeight + i, fma(u, h, get(task.dWeight + i, n)), n);
      u *= weight;
      put(us + i, u, n);  // the second pass takes u from here
      acc = fma(u, h, acc);
    }
    dot += sum(acc);
  }
  const Vec mean = splat(static_cast<float>(dot / (p.form.l2 ? 1 : static_cast<double>(p.D))) * scale);
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    Vec d = r * fnma(given.at(i, n), mean, get(us + i, n));
    if (given.z) {  // the gradient dZ, and then the gate
      const SiluAndSlope s = gateAndSlope(get(given.gate, i, n), given.isSigmoid);
      put(dGate, i, d * get(given.x, i, n) * s.slope, n);
      d = d * s.value;
    }
    put(dX, i, d, n);
  }
}

void forwardRows(const RmsNormArgs& p, const float* weight, int64_t begin, int64_t end) {
  if (!p.gate)
    return withDType(p.dtype, [&](auto d) {
      for (int64_t row = begin; row < end; ++row) forwardRow<decltype(d)>(p, weight, row);
    });
  Scratch scratch(p.form.gateFirst ? p.D : 0);
  float* z = p.form.gateFirst ? scratch.take(p.D) : nullptr;
  for (int64_t row = begin; row < end; ++row) forwardRowGated(p, weight, row, z);
}

void backwardBlocks(const RmsNormBackwardArgs& p, const float* weight, float* partial, int64_t begin, int64_t end) {
  const int64_t rows = p.gate ? 2 : p.gradDType == DType::F32 ? 0 : 1, room = alignFloats(p.D);
  Scratch scratch(rows * room);
  BackwardRow task{weight, nullptr, nullptr, nullptr};
  if (rows > 0) task.u = scratch.take(room);
  if (rows > 1) task.z = scratch.take(room);
  for (int64_t block = begin; block < end; ++block) {
    if (partial) {
      task.dWeight = partial + block * p.D;
      for (int64_t i = 0; i < p.D; ++i) task.dWeight[i] = 0;
    }
    const int64_t first = block * kRowBlock, stop = std::min(p.rows, first + kRowBlock);
    if (p.gate)
      for (int64_t row = first; row < stop; ++row) backwardRowGated(p, row, task);
    else
      withGradients(p.dtype, p.gradDType, [&](auto d, auto g) {
        for (int64_t row = first; row < stop; ++row) backwardRow<decltype(d), decltype(g)>(p, row, task);
      });
  }
}

}  // namespace

void rmsNorm(const RmsNormArgs& p) {
  Scratch scratch(floatsOf(p.weight, p.weightDType, p.D));
  const float* weight = asFloats(p.weight, p.weightDType, p.D, scratch);
  const Split s = splitWork(p.rows, (p.gate ? 40 : 10) * p.D);
  parallelFor(s.tasks, p.cancel, [&](int64_t t) { forwardRows(p, weight, s.begin(t), s.end(t)); });
}

void rmsNormBackward(const RmsNormBackwardArgs& p) {
  const int64_t blocks = (p.rows + kRowBlock - 1) / kRowBlock, partials = p.dWeight ? blocks * p.D : 0;
  Scratch scratch(floatsOf(p.weight, p.weightDType, p.D) + static_cast<size_t>(partials));
  const float* weight = asFloats(p.weight, p.weightDType, p.D, scratch);
  float* partial = p.dWeight ? scratch.take(static_cast<size_t>(partials)) : nullptr;  // [blocks, D]
  const Split s = splitWork(blocks, kRowBlock * (p.gate ? 60 : 25) * p.D);
  parallelFor(s.tasks, p.cancel, [&](int64_t t) { backwardBlocks(p, weight, partial, s.begin(t), s.end(t)); });
  if (p.dWeight) rankone::rowSum({partial, p.dWeight, blocks, p.D, p.cancel, DType::F32, p.dWeightDType});
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
