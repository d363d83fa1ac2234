// o_t = S^T q / (z_t^T q + 1e-10) with z the running sum of keys, and its gradients. With d the divisor, the core sees
// dO / d and so gives dq and dk of S^T q / d at fixed d; as q . dq is then o . dO, what is left is
//   dd_t = -(q_t . dq_t) / d_t,  dq_t += dd_t z_t,  dk_s += sum_(t >= s) dd_t q_t + dFinalZ.
// z, the divisors and the sums are float64: 3K operations a token beside the state's 4KV. Katharopoulos et al. 2020.
#include "kernels/recurrence_rows.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kPrepared = 64;
constexpr double kDivisorEpsilon = 1e-10;
constexpr int kSums = 8;  // partial sums of a dot product

double dot(const double* x, const float* y, int64_t n) {
  double s[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (int e = 0; e < kSums; ++e) s[e] += x[i + e] * y[i + e];
  for (; i < n; ++i) s[0] += x[i] * y[i];
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

// One sequence and key head: calls f(token, q, k) in order, or from the last token to the first.
template <class F>
void overTokens(const RecurrenceProblem& p, int64_t sequence, int64_t h, bool backwards, F&& f) {
  const int64_t T = p.length(sequence), stretches = (T + kPrepared - 1) / kPrepared;
  HeadRows rows(p, FloatView(), sequence, h * (p.HV / p.H), kPrepared, 0, 0);
  for (int64_t x = 0; x < stretches; ++x) {
    if (p.cancel && p.cancel->load(std::memory_order_relaxed)) return;
    const int64_t t0 = (backwards ? stretches - 1 - x : x) * kPrepared, count = T - t0 < kPrepared ? T - t0 : kPrepared;
    rows.prepare(t0, count, HeadRows::kQueries | HeadRows::kKeys);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t t = t0 + (backwards ? count - 1 - i : i);
      f(t, rows.q(t), rows.k(t));
    }
  }
}

void loadSum(const float* z, int64_t at, int64_t K, double* sum) {
  for (int64_t i = 0; i < K; ++i) sum[i] = z ? z[at + i] : 0;
}

}  // namespace

void normalizerScales(const RecurrenceProblem& p, const Normalizer& n) {
  parallelFor(p.N * p.H, p.cancel, [&](int64_t task) {
    const int64_t sequence = task / p.H, h = task % p.H, at = (p.stateRow(sequence) * p.H + h) * p.K;
    Scratch scratch(2 * alignFloats(2 * p.K));
    double* z = reinterpret_cast<double*>(scratch.take(2 * p.K));
    loadSum(n.initialZ, at, p.K, z);
    float* scales = n.scales + p.start(sequence) * p.H + h;
    overTokens(p, sequence, h, false, [&](int64_t t, const float* q, const float* k) {
      for (int64_t i = 0; i < p.K; ++i) z[i] += k[i];
      scales[t * p.H] = static_cast<float>(1 / (dot(z, q, p.K) + kDivisorEpsilon));
    });
    for (int64_t i = 0; i < p.K && n.finalZ; ++i) n.finalZ[at + i] = static_cast<float>(z[i]);
  });
}

void normalizerGradients(const RecurrenceBackward& a, const Normalizer& n, const float* dFinalZ, float* dInitialZ) {
  parallelFor(a.N * a.H, a.cancel, [&](int64_t task) {
    const int64_t sequence = task / a.H, h = task % a.H, at = task * a.K, T = a.length(sequence);
    AlignedBuffer sums(static_cast<size_t>(T + a.K) * sizeof(double));
    double *z = static_cast<double*>(sums.data()), *dd = z + a.K;
    const int64_t first = a.start(sequence) * a.H + h;
    loadSum(n.initialZ, at, a.K, z);
    overTokens(a, sequence, h, false, [&](int64_t t, const float* q, const float* k) {
      float* dq = a.dq + (first + t * a.H) * a.K;
      double product = 0;
      for (int64_t i = 0; i < a.K; ++i) product += static_cast<double>(q[i]) * dq[i];
      dd[t] = -product * n.scales[first + t * a.H];
      for (int64_t i = 0; i < a.K; ++i) {
        z[i] += k[i];
        dq[i] = static_cast<float>(dq[i] + dd[t] * z[i]);
      }
    });
    loadSum(dFinalZ, at, a.K, z);  // from here on the gradient of z
    overTokens(a, sequence, h, true, [&](int64_t t, const float* q, const float*) {
      float* dk = a.dk + (first + t * a.H) * a.K;
      for (int64_t i = 0; i < a.K; ++i) {
        z[i] += dd[t] * q[i];
        dk[i] = static_cast<float>(dk[i] + z[i]);
      }
    });
    for (int64_t i = 0; i < a.K && dInitialZ; ++i) dInitialZ[at + i] = static_cast<float>(z[i]);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
