#include "recurrence_reference.h"

#include <algorithm>
#include <cmath>

namespace rankone::reference {
namespace {

constexpr double kReset = -104, kNormEpsilon = 1e-6, kDivisorEpsilon = 1e-10;
constexpr int64_t kChunkRows = 64;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

// One sequence and value head after every activation. With normalize a last column of v is 1 and its state z.
struct Core {
  int64_t T, n, K, V;  // V counts that column
  bool delta, gated;
  double scale;
  Values q, k, v;              // [T][K], [T n][K], [T n][V]
  Values decay;                // [T][K]: e^g, 0 for a reset
  Values beta;                 // [T n], ones for additive
  Values start;                // [K][V]
  Values o;                    // [T][V]
  Values u;                    // [T n][V]
  Values state;                // [K][V] at the end
  std::vector<Values> states;  // of every token n + 1: after the decay, then after each write

  void decayed(int64_t t, Values& S) const {
    if (!gated) return;
    for (int64_t i = 0; i < K; ++i)
      for (int64_t c = 0; c < V; ++c) {
        double& x = S[i * V + c];
        const double d = decay[t * K + i];
        x = d == 0 ? 0 : x * d;
      }
  }

  // v - S^T k for delta, v otherwise.
  void residual(int64_t step, const Values& S, double* r) const {
    for (int64_t c = 0; c < V; ++c) r[c] = v[step * V + c];
    for (int64_t i = 0; i < K && delta; ++i) {
      const double x = k[step * K + i];
      const double* row = &S[i * V];
      for (int64_t c = 0; c < V; ++c) r[c] -= x * row[c];
    }
  }

  template <class AtToken>
  void run(bool keep, AtToken&& atToken) {
    o.assign(T * V, 0);
    u.assign(T * n * V, 0);
    state = start;
    for (int64_t t = 0; t < T; ++t) {
      atToken(t, state);
      decayed(t, state);
      if (keep) states.push_back(state);
      for (int64_t j = t * n; j < (t + 1) * n; ++j) {
        residual(j, state, &u[j * V]);
        for (int64_t c = 0; c < V; ++c) u[j * V + c] *= beta[j];
        for (int64_t i = 0; i < K; ++i) {
          const double x = k[j * K + i];
          for (int64_t c = 0; c < V; ++c) state[i * V + c] += x * u[j * V + c];
        }
        if (keep) states.push_back(state);
      }
      for (int64_t i = 0; i < K; ++i) {
        const double x = scale * q[t * K + i];
        for (int64_t c = 0; c < V; ++c) o[t * V + c] += x * state[i * V + c];
      }
    }
  }
};

struct CoreGradients {
  Values dq, dk, dv, dg, dbeta, w, dS;  // dg: [T][K]
};

template <class AtTokenEnd>
CoreGradients reversed(const Core& core, const Values& dO, const Values& dFinal, AtTokenEnd&& atTokenEnd) {
  const int64_t T = core.T, n = core.n, K = core.K, V = core.V;
  CoreGradients d{Values(T * K), Values(T * n * K), Values(T * n * V), Values(T * K), Values(T * n), Values(T * n * V),
                  dFinal};
  Values r(V);
  for (int64_t t = T - 1; t >= 0; --t) {
    atTokenEnd(t, d.dS);
    const Values* states = &core.states[t * (n + 1)];
    for (int64_t i = 0; i < K; ++i)
      for (int64_t c = 0; c < V; ++c) {
        const double x = core.scale * dO[t * V + c];
        d.dq[t * K + i] += x * states[n][i * V + c];
        d.dS[i * V + c] += x * core.q[t * K + i];
      }
    for (int64_t s = n - 1; s >= 0; --s) {
      const int64_t j = t * n + s;
      const Values& S = states[s];
      const double beta = core.beta[j];
      double* w = &d.w[j * V];
      core.residual(j, S, r.data());
      for (int64_t i = 0; i < K; ++i)
        for (int64_t c = 0; c < V; ++c) {
          w[c] += core.k[j * K + i] * d.dS[i * V + c];
          d.dk[j * K + i] += beta * d.dS[i * V + c] * r[c];
        }
      for (int64_t c = 0; c < V; ++c) {
        d.dbeta[j] += w[c] * r[c];
        d.dv[j * V + c] = beta * w[c];
      }
      for (int64_t i = 0; i < K && core.delta; ++i)
        for (int64_t c = 0; c < V; ++c) {
          d.dk[j * K + i] -= beta * S[i * V + c] * w[c];
          d.dS[i * V + c] -= beta * core.k[j * K + i] * w[c];
        }
    }
    // states[0] is S after the decay, so that its product with dS is the gradient of g; of a reset it is 0.
    for (int64_t i = 0; i < K && core.gated; ++i)
      for (int64_t c = 0; c < V && core.decay[t * K + i] != 0; ++c)
        d.dg[t * K + i] += states[0][i * V + c] * d.dS[i * V + c];
    core.decayed(t, d.dS);
  }
  return d;
}

// Where things of sequence s and value head h lie, and their values.
struct Head {
  const Problem& p;
  int64_t s, h;
  int64_t first, T, hq, width;  // width: columns of V and of the normalizer

  Head(const Problem& p, int64_t s, int64_t h)
      : p(p),
        s(s),
        h(h),
        first(p.start(s)),
        T(p.start(s + 1) - first),
        hq(h / (p.HV / p.H)),
        width(p.V + p.normalize) {}

  int64_t query(int64_t t) const { return ((first + t) * p.H + hq) * p.K; }
  int64_t key(int64_t j) const { return ((first * p.n + j) * p.H + hq) * p.K; }
  int64_t step(int64_t j) const { return (first * p.n + j) * p.HV + h; }
  int64_t output(int64_t t) const { return ((first + t) * p.HV + h) * p.V; }
  int64_t state() const { return (s * p.HV + h) * p.K * p.V; }
  int64_t z() const { return (s * p.H + hq) * p.K; }
  int64_t gate(int64_t t, int64_t i) const {
    if (p.gate == RANKONE_GATE_HEAD) return h;
    const int64_t token = (first + t) * p.HV + h;
    return p.gate == RANKONE_GATE_TOKEN ? token : token * p.K + i;
  }
  int64_t bias(int64_t i) const { return p.gate == RANKONE_GATE_CHANNEL ? h * p.K + i : h; }

  double rawKey(int64_t j, int64_t i) const {
    const double x = p.k[key(j) + i];
    return p.keysFromGates ? -std::expm1(x) : x;
  }
  double inverseNorm(bool ofKey, int64_t row) const {
    if (!p.qkL2norm) return 1;
    double squares = kNormEpsilon;
    for (int64_t i = 0; i < p.K; ++i) {
      const double x = ofKey ? rawKey(row, i) : p.q[query(row) + i];
      squares += x * x;
    }
    return 1 / std::sqrt(squares);
  }
  // What the gate's activation sees, and its slope there.
  double gateInput(int64_t t, int64_t i) const { return p.g[gate(t, i)] + (p.dtBias.empty() ? 0 : p.dtBias[bias(i)]); }
  double logDecay(int64_t t, int64_t i) const {
    if (p.aLog.empty()) return p.g[gate(t, i)];
    const double x = gateInput(t, i), rate = std::exp(p.aLog[h]);
    return p.lowerBound ? p.lowerBound * sigmoid(rate * x) : -rate * softplus(x);
  }
  double betaMost() const { return p.betaActivation == RANKONE_BETA_SIGMOID2 ? 2 : 1; }
  double beta(int64_t j) const {
    if (p.update == RANKONE_ADDITIVE) return 1;
    const double x = p.beta[step(j)];
    return p.betaActivation == RANKONE_BETA_NONE ? x : betaMost() * sigmoid(x);
  }
  double valueScale(int64_t j) const { return p.valueScale.empty() ? 1 : p.valueScale[step(j)]; }

  Core core() const {
    const int64_t K = p.K, V = p.V, n = p.n;
    Core c{T,
           n,
           K,
           width,
           p.update == RANKONE_DELTA,
           p.gate != RANKONE_GATE_NONE,
           p.normalize ? 1 : p.scale,
           Values(T * K),
           Values(T * n * K),
           Values(T * n * width, 1),
           Values(T * K),
           Values(T * n),
           Values(K * width),
           {},
           {},
           {},
           {}};
    for (int64_t t = 0; t < T; ++t) {
      const double r = inverseNorm(false, t);
      for (int64_t i = 0; i < K; ++i) {
        c.q[t * K + i] = p.q[query(t) + i] * r;
        if (!c.gated) continue;
        const double g = logDecay(t, i);
        c.decay[t * K + i] = g < kReset ? 0 : std::exp(g);
      }
    }
    for (int64_t j = 0; j < T * n; ++j) {
      const double r = inverseNorm(true, j);
      c.beta[j] = beta(j);
      for (int64_t i = 0; i < K; ++i) c.k[j * K + i] = rawKey(j, i) * r;
      for (int64_t i = 0; i < V; ++i) c.v[j * width + i] = p.v[step(j) * V + i] * valueScale(j);
    }
    for (int64_t i = 0; i < K; ++i) {
      for (int64_t x = 0; x < V && !p.initialState.empty(); ++x)
        c.start[i * width + x] = p.initialState[state() + i * V + x];
      if (p.normalize && !p.initialZ.empty()) c.start[i * width + V] = p.initialZ[z() + i];
    }
    return c;
  }
};

// f(head, index of its first chunk's state in [chunks,HV,K,V]).
template <class F>
void overHeads(const Problem& p, F&& f) {
  int64_t chunk = 0;
  for (int64_t s = 0; s < p.sequences(); ++s) {
    for (int64_t h = 0; h < p.HV; ++h) f(Head(p, s, h), (chunk * p.HV + h) * p.K * p.V);
    const int64_t tokens = kChunkRows / p.n;
    chunk += (p.start(s + 1) - p.start(s) + tokens - 1) / tokens;
  }
}

// Gradients of x, given those of x r with r its inverse norm.
void throughNorm(const double* normalized, double r, double* gradient, int64_t K) {
  double along = 0;
  for (int64_t i = 0; i < K; ++i) along += normalized[i] * gradient[i];
  for (int64_t i = 0; i < K; ++i) gradient[i] = r * (gradient[i] - normalized[i] * along);
}

void addKeysAndQueries(const Head& at, const Core& core, CoreGradients& d, Gradients& out) {
  const Problem& p = at.p;
  const int64_t K = p.K;
  for (int64_t t = 0; t < at.T; ++t) {
    if (p.qkL2norm) throughNorm(&core.q[t * K], at.inverseNorm(false, t), &d.dq[t * K], K);
    for (int64_t i = 0; i < K; ++i) out.dq[at.query(t) + i] += d.dq[t * K + i];
  }
  for (int64_t j = 0; j < at.T * p.n; ++j) {
    if (p.qkL2norm) throughNorm(&core.k[j * K], at.inverseNorm(true, j), &d.dk[j * K], K);
    for (int64_t i = 0; i < K; ++i)
      out.dk[at.key(j) + i] += d.dk[j * K + i] * (p.keysFromGates ? -std::exp(p.k[at.key(j) + i]) : 1);
  }
}

void addGates(const Head& at, const CoreGradients& d, Gradients& out) {
  const Problem& p = at.p;
  for (int64_t t = 0; t < at.T && p.gate != RANKONE_GATE_NONE; ++t)
    for (int64_t i = 0; i < p.K; ++i) {
      double x = d.dg[t * p.K + i];
      if (!p.aLog.empty()) {
        const double rate = std::exp(p.aLog[at.h]), in = at.gateInput(t, i), y = rate * in;
        const double bounded = p.lowerBound * rate * sigmoid(y) * sigmoid(-y);
        out.dALog[at.h] += x * (p.lowerBound ? bounded * in : at.logDecay(t, i));
        x *= p.lowerBound ? bounded : -rate * sigmoid(in);
        if (!p.dtBias.empty()) out.dDtBias[at.bias(i)] += x;
      }
      out.dg[at.gate(t, i)] += x;
    }
}

void addSteps(const Head& at, const Core& core, const CoreGradients& d, Gradients& out) {
  const Problem& p = at.p;
  for (int64_t j = 0; j < at.T * p.n; ++j) {
    if (core.delta) {
      const double x = p.beta[at.step(j)];
      out.dbeta[at.step(j)] =
          d.dbeta[j] * (p.betaActivation == RANKONE_BETA_NONE ? 1 : at.betaMost() * sigmoid(x) * sigmoid(-x));
    }
    for (int64_t c = 0; c < p.V; ++c) {
      out.dv[at.step(j) * p.V + c] = d.dv[j * at.width + c] * at.valueScale(j);
      if (!p.normalize) out.w[at.step(j) * p.V + c] = d.w[j * at.width + c];
    }
  }
}

}  // namespace

int64_t Problem::chunks() const {
  const int64_t tokens = kChunkRows / n;
  int64_t count = 0;
  for (int64_t s = 0; s < sequences(); ++s) count += (start(s + 1) - start(s) + tokens - 1) / tokens;
  return count;
}

Forward forward(const Problem& p) {
  const int64_t states = p.sequences() * p.HV * p.K * p.V, tokens = kChunkRows / p.n;
  Forward out{Values(p.B * p.T * p.HV * p.V), Values(states), Values(p.normalize ? p.sequences() * p.H * p.K : 0),
              Values(p.normalize ? 0 : p.chunks() * p.HV * p.K * p.V),
              Values(p.normalize ? 0 : p.B * p.T * p.n * p.HV * p.V)};
  overHeads(p, [&](const Head& at, int64_t chunk) {
    Core core = at.core();
    core.run(false, [&](int64_t t, const Values& S) {
      if (t % tokens == 0 && !p.normalize)
        std::copy(S.begin(), S.end(), out.states.begin() + chunk + t / tokens * p.HV * p.K * p.V);
    });
    for (int64_t t = 0; t < at.T; ++t)
      for (int64_t c = 0; c < p.V; ++c)
        out.o[at.output(t) + c] =
            core.o[t * at.width + c] / (p.normalize ? core.o[t * at.width + p.V] + kDivisorEpsilon : 1);
    for (int64_t j = 0; j < at.T * p.n && !p.normalize; ++j)
      for (int64_t c = 0; c < p.V; ++c) out.u[at.step(j) * p.V + c] = core.u[j * p.V + c];
    for (int64_t i = 0; i < p.K; ++i) {
      for (int64_t c = 0; c < p.V; ++c) out.finalState[at.state() + i * p.V + c] = core.state[i * at.width + c];
      if (p.normalize) out.finalZ[at.z() + i] = core.state[i * at.width + p.V];
    }
  });
  return out;
}

Gradients backward(const Problem& p) {
  const int64_t states = p.sequences() * p.HV * p.K * p.V, tokens = kChunkRows / p.n, K = p.K, V = p.V;
  Gradients out{Values(p.q.size()),
                Values(p.k.size()),
                Values(p.v.size()),
                Values(p.g.size()),
                Values(p.beta.size()),
                Values(states),
                Values(p.normalize ? p.sequences() * p.H * K : 0),
                Values(p.aLog.size()),
                Values(p.dtBias.size()),
                Values(p.normalize ? 0 : p.chunks() * p.HV * K * V),
                Values(p.normalize ? 0 : p.v.size())};
  overHeads(p, [&](const Head& at, int64_t chunk) {
    Core core = at.core();
    core.run(true, [](int64_t, const Values&) {});
    const int64_t width = at.width;
    Values dO(at.T * width), dFinal(K * width);
    for (int64_t t = 0; t < at.T; ++t)
      for (int64_t c = 0; c < V; ++c) {
        const double d = p.dO[at.output(t) + c], den = p.normalize ? core.o[t * width + V] + kDivisorEpsilon : 1;
        dO[t * width + c] = d / den;
        if (p.normalize) dO[t * width + V] -= d * core.o[t * width + c] / (den * den);
      }
    // The heads of a group have one z: its gradient enters with the first of them.
    const bool first = at.h % (p.HV / p.H) == 0;
    for (int64_t i = 0; i < K; ++i) {
      for (int64_t c = 0; c < V && !p.dFinalState.empty(); ++c)
        dFinal[i * width + c] = p.dFinalState[at.state() + i * V + c];
      if (p.normalize && first && !p.dFinalZ.empty()) dFinal[i * width + V] = p.dFinalZ[at.z() + i];
    }
    CoreGradients d = reversed(core, dO, dFinal, [&](int64_t t, const Values& dS) {
      if ((t % tokens == tokens - 1 || t == at.T - 1) && !p.normalize)
        std::copy(dS.begin(), dS.end(), out.states.begin() + chunk + t / tokens * p.HV * K * V);
    });
    for (int64_t i = 0; i < K; ++i) {
      for (int64_t c = 0; c < V; ++c) out.dInitialState[at.state() + i * V + c] = d.dS[i * width + c];
      if (p.normalize) out.dInitialZ[at.z() + i] += d.dS[i * width + V];
    }
    addKeysAndQueries(at, core, d, out);
    addGates(at, d, out);
    addSteps(at, core, d, out);
  });
  return out;
}

}  // namespace rankone::reference
