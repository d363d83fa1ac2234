// With r = (mean(x^2) + eps)^-1/2 and h = r x per row:  y = h * weight [* act(gate)],
// u = dY * weight [* act(gate)],  dX = r (u - h mean(u h)),  dWeight = sum over rows of dY [* act(gate)] * h,
// dGate = dY * weight * h * act'(gate). Gated first, z = x * act(gate) stands for x in all of that, and
// dX = dZ * act(gate),  dGate = dZ * x * act'(gate). The L2 norm has sums where these have means. act: silu, sigmoid.
// Sums of a row are float32 within 512 elements and float64 across, r is float64 rounded once: relative error of a row
// below 1e-6 before it is rounded to its dtype. dWeight is summed in blocks of 32 rows, then by rowSum. Zhang and
// Sennrich, "Root Mean Square Layer Normalization" (2019); gates as in the output norms of Mamba-2 (first), Gated
// DeltaNet (silu) and Kimi Delta Attention (sigmoid).
#include "kernels/elementwise.inl"

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

struct NoGate {};
struct SiluGate {
  static RANKONE_INLINE Vec value(Vec x) { return silu(x); }
  static RANKONE_INLINE SiluAndSlope both(Vec x) { return siluAndSlope(x); }
};
struct SigmoidGate {
  static RANKONE_INLINE Vec value(Vec x) { return sigmoid(x); }
  static RANKONE_INLINE SiluAndSlope both(Vec x) {
    const Vec e = exp(-atLeast(x, splat(-88.0f))), s = splat(1.0f) / (e + 1.0f);  // the bound keeps e^-x finite
    return {s, s * (e * s)};
  }
};

// f(gate's type) of what a call asks for.
template <class Args, class F>
RANKONE_INLINE void withGate(const Args& p, F&& f) {
  if (!p.gate)
    f(NoGate{});
  else if (p.form.sigmoid)
    f(SigmoidGate{});
  else
    f(SiluGate{});
}

template <class Gate>
constexpr bool kGated = !std::is_same_v<Gate, NoGate>;

template <class D, class Gate>
void forwardRow(const RmsNormArgs& p, const float* weight, int64_t row) {
  const auto* x = elements<D>(p.x, row * p.D);
  auto* y = elements<D>(p.y, row * p.D);
  const Vec r = splat(inverseNorm<D>(x, p.D, p.eps, p.form));
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    Vec v = get<D>(x + i, n) * r;
    if (weight) v *= get(weight + i, n);
    if constexpr (kGated<Gate>) v *= Gate::value(get<D>(elements<D>(p.gate, row * p.D + i), n));
    put<D>(y + i, v, n);
  }
}

// z = x * act(gate) of one row, in float32
template <class D, class Gate, class Args>
void gateRow(const Args& p, int64_t row, float* z) {
  const auto *x = elements<D>(p.x, row * p.D), *gate = elements<D>(p.gate, row * p.D);
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    put(z + i, get<D>(x + i, n) * Gate::value(get<D>(gate + i, n)), n);
  }
}

template <class D, class Gate>
void forwardRowGatedFirst(const RmsNormArgs& p, const float* weight, int64_t row, float* z) {
  gateRow<D, Gate>(p, row, z);
  auto* y = elements<D>(p.y, row * p.D);
  const Vec r = splat(inverseNorm<F32>(z, p.D, p.eps, p.form));
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    const Vec v = get(z + i, n) * r;
    put<D>(y + i, weight ? v * get(weight + i, n) : v, n);
  }
}

// What a task of the backward works with, in float32.
struct BackwardRow {
  const float* weight;  // [D], or null
  float* dWeight;       // [D]: the partial sum of the row's block, or null
  float* u;             // [D]: room for u where dX is not float32
  float* z;             // [D]: room for the gated x, gated first
};

template <class D, class G, class Gate>
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
      if constexpr (kGated<Gate>) {
        const SiluAndSlope s = Gate::both(get<D>(elements<D>(p.gate, row * p.D + i), n));
        const Vec dGate = u * h * s.slope;
        put<G>(elements<G>(p.dGate, row * p.D + i), task.weight ? dGate * get(task.weight + i, n) : dGate, n);
        u *= s.value;
      }
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

template <class D, class G, class Gate>
void backwardRowGatedFirst(const RmsNormBackwardArgs& p, int64_t row, const BackwardRow& task) {
  // The norm of z with the gradient dZ in u, both float32, and then the gate.
  gateRow<D, Gate>(p, row, task.z);
  const auto *x = elements<D>(p.x, row * p.D), *gate = elements<D>(p.gate, row * p.D);
  const auto* dY = elements<D>(p.dY, row * p.D);
  const float scale = inverseNorm<F32>(task.z, p.D, p.eps, p.form);
  const Vec r = splat(scale);
  double dot = 0;
  for (int64_t piece = 0; piece < p.D; piece += kSumPiece) {
    const int64_t end = std::min(p.D, piece + kSumPiece);
    Vec acc = zero();
    for (int64_t i = piece; i < end; i += kLanes) {
      const int n = lanesLeft(i, end);
      const Vec h = get(task.z + i, n) * r;
      Vec u = get<D>(dY + i, n);
      if (task.dWeight) put(task.dWeight + i, fma(u, h, get(task.dWeight + i, n)), n);
      if (task.weight) u *= get(task.weight + i, n);
      put(task.u + i, u, n);
      acc = fma(u, h, acc);
    }
    dot += sum(acc);
  }
  const Vec mean = splat(static_cast<float>(dot / (p.form.l2 ? 1 : static_cast<double>(p.D))) * scale);
  for (int64_t i = 0; i < p.D; i += kLanes) {
    const int n = lanesLeft(i, p.D);
    const Vec dZ = r * fnma(get(task.z + i, n), mean, get(task.u + i, n));
    const SiluAndSlope s = Gate::both(get<D>(gate + i, n));
    put<G>(elements<G>(p.dX, row * p.D + i), dZ * s.value, n);
    put<G>(elements<G>(p.dGate, row * p.D + i), dZ * get<D>(x + i, n) * s.slope, n);
  }
}

template <class D, class Gate>
void forwardRows(const RmsNormArgs& p, const float* weight, int64_t begin, int64_t end) {
  if constexpr (kGated<Gate>) {
    if (p.form.gateFirst) {
      Scratch scratch(p.D);
      float* z = scratch.take(p.D);
      for (int64_t row = begin; row < end; ++row) forwardRowGatedFirst<D, Gate>(p, weight, row, z);
      return;
    }
  }
  for (int64_t row = begin; row < end; ++row) forwardRow<D, Gate>(p, weight, row);
}

template <class D, class G, class Gate>
void backwardBlocks(const RmsNormBackwardArgs& p, const float* weight, float* partial, int64_t begin, int64_t end) {
  const bool first = kGated<Gate> && p.form.gateFirst;
  const int64_t rows = first ? 2 : std::is_same_v<G, F32> ? 0 : 1, room = alignFloats(p.D);
  Scratch scratch(rows * room);
  BackwardRow task{weight, nullptr, nullptr, nullptr};
  if (rows > 0) task.u = scratch.take(room);
  if (rows > 1) task.z = scratch.take(room);
  for (int64_t block = begin; block < end; ++block) {
    if (partial) {
      task.dWeight = partial + block * p.D;
      for (int64_t i = 0; i < p.D; ++i) task.dWeight[i] = 0;
    }
    for (int64_t row = block * kRowBlock; row < std::min(p.rows, (block + 1) * kRowBlock); ++row) {
      if constexpr (kGated<Gate>) {
        if (first) {
          backwardRowGatedFirst<D, G, Gate>(p, row, task);
          continue;
        }
      }
      backwardRow<D, G, Gate>(p, row, task);
    }
  }
}

}  // namespace

void rmsNorm(const RmsNormArgs& p) {
  Scratch scratch(floatsOf(p.weight, p.weightDType, p.D));
  const float* weight = asFloats(p.weight, p.weightDType, p.D, scratch);
  const Split s = splitWork(p.rows, (p.gate ? 40 : 10) * p.D);
  withDType(p.dtype, [&](auto d) {
    withGate(p, [&](auto gate) {
      parallelFor(s.tasks, p.cancel,
                  [&](int64_t t) { forwardRows<decltype(d), decltype(gate)>(p, weight, s.begin(t), s.end(t)); });
    });
  });
}

void rmsNormBackward(const RmsNormBackwardArgs& p) {
  const int64_t blocks = (p.rows + kRowBlock - 1) / kRowBlock, partials = p.dWeight ? blocks * p.D : 0;
  Scratch scratch(floatsOf(p.weight, p.weightDType, p.D) + static_cast<size_t>(partials));
  const float* weight = asFloats(p.weight, p.weightDType, p.D, scratch);
  float* partial = p.dWeight ? scratch.take(static_cast<size_t>(partials)) : nullptr;  // [blocks, D]
  const Split s = splitWork(blocks, kRowBlock * (p.gate ? 60 : 25) * p.D);
  withGradients(p.dtype, p.gradDType, [&](auto d, auto g) {
    withGate(p, [&](auto gate) {
      parallelFor(s.tasks, p.cancel, [&](int64_t t) {
        backwardBlocks<decltype(d), decltype(g), decltype(gate)>(p, weight, partial, s.begin(t), s.end(t));
      });
    });
  });
  if (p.dWeight) rankone::rowSum({partial, p.dWeight, blocks, p.D, p.cancel, DType::F32, p.dWeightDType});
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
