// Activations and the normalizer around the plain recurrence. The normalizer is a value column of ones: the state's
// column of it is the running sum of keys, and its row of outputs is what the others are divided by.
#include <cmath>

#include "recurrence_reference.h"

namespace rankone::test {
namespace {

constexpr double kNormEpsilon = 1e-6, kDivisorEpsilon = 1e-10;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

double inverseNorm(const Values& x, int64_t row, int64_t width) {
  double squares = kNormEpsilon;
  for (int64_t i = row; i < row + width; ++i) squares += x[i] * x[i];
  return 1 / std::sqrt(squares);
}

void normalizeRows(Values& x, int64_t width) {
  for (int64_t row = 0; row < static_cast<int64_t>(x.size()); row += width) {
    const double r = inverseNorm(x, row, width);
    for (int64_t i = row; i < row + width; ++i) x[i] *= r;
  }
}

void reverseNorm(const Values& x, int64_t width, Values& gradient) {
  for (int64_t row = 0; row < static_cast<int64_t>(x.size()); row += width) {
    const double r = inverseNorm(x, row, width);
    double along = 0;
    for (int64_t i = row; i < row + width; ++i) along += x[i] * r * gradient[i];
    for (int64_t i = row; i < row + width; ++i) gradient[i] = r * (gradient[i] - x[i] * r * along);
  }
}

// Of gate element i: its value head, its bias and what the activation sees.
struct RawGate {
  int64_t head, bias;
  double x, rate;

  RawGate(const Sizes& s, const GridValues& p, int64_t i) {
    const int64_t width = s.gate == Gate::Channel ? s.K : 1;
    head = i / width % s.HV;
    bias = i % (s.HV * width);
    x = p.g[i] + (s.fused.dtBias ? p.dtBias[bias] : 0);
    rate = std::exp(p.aLog[head]);
  }
};

GridValues activated(const Sizes& s, const GridValues& raw) {
  GridValues p = raw;
  if (s.fused.qkL2norm) {
    normalizeRows(p.q, s.K);
    normalizeRows(p.k, s.K);
  }
  for (size_t i = 0; i < p.g.size() && s.fused.gate; ++i) {
    const RawGate at(s, raw, static_cast<int64_t>(i));
    p.g[i] = s.fused.lowerBound ? s.fused.lowerBound * sigmoid(at.rate * at.x) : -at.rate * softplus(at.x);
  }
  for (double& b : p.beta)
    if (s.fused.betaMost) b = s.fused.betaMost * sigmoid(b);
  return p;
}

void reverseActivations(const Sizes& s, const GridValues& raw, const GridValues& p, GridGradients& grads) {
  if (s.fused.qkL2norm) {
    reverseNorm(raw.q, s.K, grads.dq);
    reverseNorm(raw.k, s.K, grads.dk);
  }
  grads.dALog.resize(p.aLog.size());
  grads.dDtBias.resize(p.dtBias.size());
  for (size_t i = 0; i < p.g.size() && s.fused.gate; ++i) {
    const RawGate at(s, raw, static_cast<int64_t>(i));
    const double y = at.rate * at.x, bounded = s.fused.lowerBound * at.rate * sigmoid(y) * sigmoid(-y);
    grads.dALog[at.head] += grads.dg[i] * (s.fused.lowerBound ? bounded * at.x : p.g[i]);
    grads.dg[i] *= s.fused.lowerBound ? bounded : -at.rate * sigmoid(at.x);
    if (s.fused.dtBias) grads.dDtBias[at.bias] += grads.dg[i];
  }
  for (size_t i = 0; i < p.beta.size() && s.fused.betaMost; ++i)
    grads.dbeta[i] *= s.fused.betaMost * sigmoid(raw.beta[i]) * sigmoid(-raw.beta[i]);
}

// Rows of V values with one more at the end, and rows of V + 1 without it.
Values widened(const Values& rows, int64_t V, double last) {
  Values wide;
  for (size_t i = 0; i < rows.size(); ++i) {
    wide.push_back(rows[i]);
    if (static_cast<int64_t>(i) % V == V - 1) wide.push_back(last);
  }
  return wide;
}
Values narrowed(const Values& wide, int64_t V) {
  Values rows;
  for (size_t i = 0; i < wide.size(); ++i)
    if (static_cast<int64_t>(i) % (V + 1) != V) rows.push_back(wide[i]);
  return rows;
}

// The last column of states [B,HV,K,V+1] and z [B,H,K]: f(state's element, z's, whether the first head of its group).
template <class F>
void overNormalizers(const Sizes& s, F&& f) {
  for (int64_t i = 0; i < s.B * s.HV * s.K; ++i) {
    const int64_t group = s.HV / s.H, head = i / s.K % s.HV, b = i / (s.K * s.HV);
    f(i * (s.V + 1) + s.V, (b * s.H + head / group) * s.K + i % s.K, head % group == 0);
  }
}

struct Widened {
  Sizes sizes;
  GridValues values;
  GridForward forward;  // of the wide problem

  Widened(const Sizes& s, const GridValues& p) : sizes(s), values(p) {
    ++sizes.V;
    values.scale = 1;
    values.v = widened(p.v, s.V, 1);
    values.initialState =
        p.initialState.empty() ? Values(s.B * s.HV * s.K * (s.V + 1)) : widened(p.initialState, s.V, 0);
    overNormalizers(s, [&](int64_t at, int64_t z, bool) {
      if (!p.initialZ.empty()) values.initialState[at] = p.initialZ[z];
    });
    forward = plainForward(sizes, values);
  }
};

GridForward normalizedForward(const Sizes& s, const GridValues& p) {
  const Widened wide(s, p);
  GridForward out = wide.forward;
  for (size_t row = 0; row < out.o.size(); row += s.V + 1)
    for (int64_t c = 0; c < s.V; ++c) out.o[row + c] /= out.o[row + s.V] + kDivisorEpsilon;
  out.finalZ.resize(s.B * s.H * s.K);
  overNormalizers(s, [&](int64_t at, int64_t z, bool) { out.finalZ[z] = out.finalState[at]; });
  out.o = narrowed(out.o, s.V);
  out.finalState = narrowed(out.finalState, s.V);
  return out;
}

GridGradients normalizedBackward(const Sizes& s, const GridValues& p) {
  Widened wide(s, p);
  Values& dO = wide.values.dO = widened(p.dO, s.V, 0);
  for (size_t row = 0; row < dO.size(); row += s.V + 1) {
    const double divisor = wide.forward.o[row + s.V] + kDivisorEpsilon;
    for (int64_t c = 0; c < s.V; ++c) {
      dO[row + s.V] -= dO[row + c] * wide.forward.o[row + c] / (divisor * divisor);
      dO[row + c] /= divisor;
    }
  }
  Values& dFinal = wide.values.dFinalState;
  dFinal = p.dFinalState.empty() ? Values(wide.values.initialState.size()) : widened(p.dFinalState, s.V, 0);
  overNormalizers(s, [&](int64_t at, int64_t z, bool first) {
    if (first && !p.dFinalZ.empty()) dFinal[at] = p.dFinalZ[z];
  });
  GridGradients grads = plainBackward(wide.sizes, wide.values);
  grads.dInitialZ.resize(s.B * s.H * s.K);
  overNormalizers(s, [&](int64_t at, int64_t z, bool) { grads.dInitialZ[z] += grads.dInitialState[at]; });
  grads.dv = narrowed(grads.dv, s.V);
  grads.dInitialState = narrowed(grads.dInitialState, s.V);
  return grads;
}

}  // namespace

GridForward referenceForward(const Sizes& s, const GridValues& raw) {
  const GridValues p = activated(s, raw);
  return s.fused.normalize ? normalizedForward(s, p) : plainForward(s, p);
}

GridGradients referenceBackward(const Sizes& s, const GridValues& raw) {
  const GridValues p = activated(s, raw);
  GridGradients grads = s.fused.normalize ? normalizedBackward(s, p) : plainBackward(s, p);
  reverseActivations(s, raw, p, grads);
  return grads;
}

}  // namespace rankone::test
