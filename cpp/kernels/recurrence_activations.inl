// Gradients through what stands before the recurrence: the norm of queries and keys, the activations of gates and beta.
// In place on the gradients of what the recurrence saw. Sums over tokens run in their order, in float64 per stretch.
#include "kernels/recurrence_rows.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kStretch = 64;  // rows to a task, and values that are summed in float32

RANKONE_INLINE int lanesAt(int64_t i, int64_t n) { return static_cast<int>(n - i < kLanes ? n - i : kLanes); }

// y = x r, r = (|x|^2 + eps)^-1/2: dx = r (dy - y (y . dy)).
void normGradients(const RecurrenceBackward& a, const FloatView& x, int64_t rows, float* gradients) {
  parallelFor((rows + kStretch - 1) / kStretch, a.cancel, [&](int64_t task) {
    Scratch scratch(alignFloats(roundUp(a.K, kLanes)));
    float* y = scratch.take(roundUp(a.K, kLanes));
    for (int64_t row = task * kStretch; row < rows && row < (task + 1) * kStretch; ++row) {
      float* dy = gradients + row * a.K;
      widen(x.data, x.dtype, row * a.K, a.K, y);
      const float r = inverseNorm(y, a.K);
      Vec dot = zero();
      for (int64_t i = 0; i < a.K; i += kLanes) {
        const int n = lanesAt(i, a.K);
        const Vec value = loadUpTo(y + i, n) * r;
        storeUpTo(y + i, value, n);
        dot = fma(value, loadUpTo(dy + i, n), dot);
      }
      const Vec by = splat(sum(dot));
      for (int64_t i = 0; i < a.K; i += kLanes) {
        const int n = lanesAt(i, a.K);
        storeUpTo(dy + i, fnma(loadUpTo(y + i, n), by, loadUpTo(dy + i, n)) * r, n);
      }
    }
  });
}

void betaGradients(const RecurrenceBackward& a) {
  const float most = a.betaActivation == BetaActivation::Sigmoid2 ? 2.0f : 1.0f;
  const int64_t count = a.B * a.T * a.n * a.HV, tasks = (count + 4095) / 4096;
  parallelFor(tasks, a.cancel, [&](int64_t task) {
    const int64_t end = count < (task + 1) * 4096 ? count : (task + 1) * 4096;
    for (int64_t i = task * 4096; i < end; i += kLanes) {
      const int n = lanesAt(i, end);
      float raw[kLanes] = {};
      gather(a.beta, i, 1, n, raw);
      const Vec x = load(raw);
      storeUpTo(a.dbeta + i, loadUpTo(a.dbeta + i, n) * sigmoid(x) * sigmoid(-x) * most, n);
    }
  });
}

// dg of one value head, and its sums over tokens. `width` gates a token, K or 1; a stretch of tokens is gathered as
// [width][kStretch], so that the tokens run along the vectors.
void gateGradients(const RecurrenceBackward& a, int64_t hv) {
  const int64_t width = a.gate == GateKind::Channel ? a.K : 1, tokens = a.B * a.T, stride = a.HV * width;
  const GateCurve curve(a.gateActivation, hv);
  const float* bias = a.gateActivation.dtBias ? a.gateActivation.dtBias + hv * width : nullptr;
  AlignedBuffer sums(static_cast<size_t>(width) * sizeof(double));
  double *biasSum = static_cast<double*>(sums.data()), rateSum = 0;
  for (int64_t i = 0; i < width; ++i) biasSum[i] = 0;
  float raw[kStretch], gradient[kStretch];
  for (int64_t t0 = 0; t0 < tokens; t0 += kStretch) {
    const int64_t count = tokens - t0 < kStretch ? tokens - t0 : kStretch;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t first = t0 * stride + hv * width + i;
      std::memset(raw, 0, sizeof raw);
      std::memset(gradient, 0, sizeof gradient);
      gather(a.g, first, stride, count, raw);
      for (int64_t t = 0; t < count; ++t) gradient[t] = a.dg[first + t * stride];
      Vec byBias = zero(), byRate = zero();
      for (int64_t t = 0; t < count; t += kLanes) {
        const Vec x = load(raw + t) + (bias ? bias[i] : 0.0f), dg = load(gradient + t);
        Vec rateSlope;
        // A reset has no gradient, whatever the slope there is.
        const Vec dx = select(dg == 0.0f, zero(), dg * curve.slope(x, rateSlope));
        byRate += select(dg == 0.0f, zero(), dg * rateSlope);
        byBias += dx;
        store(gradient + t, dx);
      }
      for (int64_t t = 0; t < count; ++t) a.dg[first + t * stride] = gradient[t];
      biasSum[i] += sum(byBias);
      rateSum += sum(byRate);
    }
    if (a.cancel && a.cancel->load(std::memory_order_relaxed)) return;
  }
  if (a.dALog) a.dALog[hv] = static_cast<float>(rateSum);
  for (int64_t i = 0; i < width && a.dDtBias; ++i) a.dDtBias[hv * width + i] = static_cast<float>(biasSum[i]);
}

}  // namespace

void recurrenceActivationGradients(const RecurrenceBackward& a) {
  const int64_t rows = a.B * a.T * a.H;
  if (a.qkL2norm) {
    if (a.q) normGradients(a, a.q, rows, a.dq);
    normGradients(a, a.k, rows * a.n, a.dk);
  }
  if (a.betaActivation != BetaActivation::None) betaGradients(a);
  if (a.gateActivation) parallelFor(a.HV, a.cancel, [&](int64_t hv) { gateGradients(a, hv); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
