#include "recurrence_reference.h"

#include <cmath>

namespace rankone::test {
namespace {

constexpr double kReset = -104;

// One sequence and value head of a problem.
struct Head {
  const Sizes& s;
  const GridValues& p;
  int64_t b, h;

  int64_t query(int64_t t) const { return ((b * s.T + t) * s.H + h / (s.HV / s.H)) * s.K; }
  int64_t key(int64_t step) const { return ((b * s.T * s.n + step) * s.H + h / (s.HV / s.H)) * s.K; }
  int64_t value(int64_t step) const { return ((b * s.T * s.n + step) * s.HV + h) * s.V; }
  int64_t beta(int64_t step) const { return (b * s.T * s.n + step) * s.HV + h; }
  int64_t output(int64_t t) const { return ((b * s.T + t) * s.HV + h) * s.V; }
  int64_t state() const { return (b * s.HV + h) * s.K * s.V; }
  int64_t gate(int64_t t, int64_t i) const {
    switch (s.gate) {
      case Gate::None: return -1;
      case Gate::Head: return h;
      case Gate::Token: return (b * s.T + t) * s.HV + h;
      case Gate::Channel: return ((b * s.T + t) * s.HV + h) * s.K + i;
    }
    return -1;
  }
};

void scaleRow(const Head& at, int64_t t, int64_t i, Values& S) {
  const double g = at.p.g[at.gate(t, i)];
  for (int64_t c = 0; c < at.s.V; ++c) {
    double& x = S[i * at.s.V + c];
    x = g < kReset ? 0.0 : x * std::exp(g);  // a reset clears whatever stood there
  }
}

void decay(const Head& at, int64_t t, Values& S) {
  for (int64_t i = 0; i < at.s.K && at.s.gate != Gate::None; ++i) scaleRow(at, t, i, S);
}

// v - S^T k for delta, v otherwise.
Values residual(const Head& at, int64_t step, const Values& S) {
  const auto v = at.p.v.begin() + at.value(step);
  Values r(v, v + at.s.V);
  for (int64_t i = 0; i < at.s.K && at.s.delta; ++i)
    for (int64_t c = 0; c < at.s.V; ++c) r[c] -= at.p.k[at.key(step) + i] * S[i * at.s.V + c];
  return r;
}

double betaOf(const Head& at, int64_t step) { return at.s.delta ? at.p.beta[at.beta(step)] : 1.0; }

void write(const Head& at, int64_t step, Values& S) {
  const Values r = residual(at, step, S);
  const double beta = betaOf(at, step);
  for (int64_t i = 0; i < at.s.K; ++i)
    for (int64_t c = 0; c < at.s.V; ++c) S[i * at.s.V + c] += beta * at.p.k[at.key(step) + i] * r[c];
}

Values startOf(const Head& at) {
  const int64_t size = at.s.K * at.s.V;
  if (at.p.initialState.empty()) return Values(size);
  const auto begin = at.p.initialState.begin() + at.state();
  return Values(begin, begin + size);
}

void reverseStep(const Head& at, int64_t step, const Values& S, Values& dS, GridGradients& grads) {
  const int64_t K = at.s.K, V = at.s.V, key = at.key(step);
  const Values r = residual(at, step, S);
  const double beta = betaOf(at, step);
  Values du(V);
  for (int64_t i = 0; i < K; ++i)
    for (int64_t c = 0; c < V; ++c) {
      du[c] += at.p.k[key + i] * dS[i * V + c];
      grads.dk[key + i] += beta * dS[i * V + c] * r[c];
    }
  for (int64_t c = 0; c < V; ++c) {
    if (at.s.delta) grads.dbeta[at.beta(step)] += du[c] * r[c];
    grads.dv[at.value(step) + c] += beta * du[c];
  }
  for (int64_t i = 0; i < K && at.s.delta; ++i)
    for (int64_t c = 0; c < V; ++c) {
      grads.dk[key + i] -= beta * S[i * V + c] * du[c];
      dS[i * V + c] -= beta * at.p.k[key + i] * du[c];
    }
}

void reverseDecay(const Head& at, int64_t t, const Values& decayed, Values& dS, GridGradients& grads) {
  for (int64_t i = 0; i < at.s.K && at.s.gate != Gate::None; ++i) {
    const int64_t g = at.gate(t, i);
    for (int64_t c = 0; c < at.s.V && !(at.p.g[g] < kReset); ++c)
      grads.dg[g] += decayed[i * at.s.V + c] * dS[i * at.s.V + c];
    scaleRow(at, t, i, dS);
  }
}

void reverseHead(const Head& at, GridGradients& grads) {
  const int64_t K = at.s.K, V = at.s.V, n = at.s.n;
  std::vector<Values> states;  // of every token n + 1: after the decay, then after each write
  Values S = startOf(at);
  for (int64_t t = 0; t < at.s.T; ++t) {
    decay(at, t, S);
    states.push_back(S);
    for (int64_t j = 0; j < n; ++j) {
      write(at, t * n + j, S);
      states.push_back(S);
    }
  }
  Values dS(K * V);
  for (int64_t i = 0; i < K * V && !at.p.dFinalState.empty(); ++i) dS[i] = at.p.dFinalState[at.state() + i];
  for (int64_t t = at.s.T - 1; t >= 0; --t) {
    const Values* ofToken = &states[t * (n + 1)];
    for (int64_t i = 0; i < K; ++i)
      for (int64_t c = 0; c < V; ++c) {
        const double d = at.p.scale * at.p.dO[at.output(t) + c];
        grads.dq[at.query(t) + i] += d * ofToken[n][i * V + c];
        dS[i * V + c] += d * at.p.q[at.query(t) + i];
      }
    for (int64_t j = n - 1; j >= 0; --j) reverseStep(at, t * n + j, ofToken[j], dS, grads);
    reverseDecay(at, t, ofToken[0], dS, grads);
  }
  for (int64_t i = 0; i < K * V; ++i) grads.dInitialState[at.state() + i] = dS[i];
}

template <class F>
void forEachHead(const Sizes& s, const GridValues& p, F&& visit) {
  for (int64_t b = 0; b < s.B; ++b)
    for (int64_t h = 0; h < s.HV; ++h) visit(Head{s, p, b, h});
}

}  // namespace

GridForward plainForward(const Sizes& s, const GridValues& p) {
  GridForward out{Values(s.B * s.T * s.HV * s.V), Values(s.B * s.HV * s.K * s.V), {}};
  forEachHead(s, p, [&](const Head& at) {
    Values S = startOf(at);
    for (int64_t t = 0; t < s.T; ++t) {
      decay(at, t, S);
      for (int64_t j = 0; j < s.n; ++j) write(at, t * s.n + j, S);
      for (int64_t i = 0; i < s.K; ++i)
        for (int64_t c = 0; c < s.V; ++c) out.o[at.output(t) + c] += p.scale * p.q[at.query(t) + i] * S[i * s.V + c];
    }
    for (int64_t i = 0; i < s.K * s.V; ++i) out.finalState[at.state() + i] = S[i];
  });
  return out;
}

GridGradients plainBackward(const Sizes& s, const GridValues& p) {
  GridGradients grads{Values(p.q.size()),
                      Values(p.k.size()),
                      Values(p.v.size()),
                      Values(p.g.size()),
                      Values(p.beta.size()),
                      Values(s.B * s.HV * s.K * s.V),
                      {},
                      {},
                      {}};
  forEachHead(s, p, [&](const Head& at) { reverseHead(at, grads); });
  return grads;
}

GridValues shaken(GridValues p, Random& random) {
  for (Values* values : {&p.q, &p.k, &p.v, &p.g, &p.beta, &p.initialState, &p.dO, &p.dFinalState, &p.aLog, &p.dtBias,
                         &p.initialZ, &p.dFinalZ})
    for (double& x : *values)
      if (std::isfinite(x)) x *= 1 + (random.below(2) ? 0x1p-24 : -0x1p-24);
  return p;
}

}  // namespace rankone::test
