// Local linear attention against the paper's system, formed and solved in float64; its gradients along random
// directions.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "compare.h"
#include "invocation.h"
#include "random.h"

namespace rankone::test {
namespace {

struct Problem {
  int64_t B, T, S, H, HKV, K, V;
  bool causal, perHead;
  int64_t left, first;
  Array q, k, v, lambda;
};

Problem drawProblem(Random& r) {
  constexpr int64_t kTokens[] = {0, 1, 2, 9, 33, 70}, kKeys[] = {0, 1, 40, 100}, kWidths[] = {1, 4, 7, 16, 21};
  const auto of = [&](auto& list) { return list[r.below(static_cast<int64_t>(std::size(list)))]; };
  Problem p{};
  p.B = 1 + r.below(2);
  p.T = of(kTokens);
  p.S = of(kTokens) + of(kKeys);
  p.HKV = 1 + r.below(2);
  p.H = p.HKV * (1 + r.below(3));
  p.K = of(kWidths);
  p.V = of(kWidths);
  p.causal = r.below(3) != 0;
  p.perHead = r.below(2);
  p.left = r.below(2) ? r.below(60) : 1 << 20;
  p.first = r.below(3) == 0 ? r.below(120) : 0;
  p.q = r.normals({p.B, p.T, p.H, p.K});
  p.k = r.normals({p.B, p.S, p.HKV, p.K});
  p.v = r.normals({p.B, p.S, p.HKV, p.V});
  p.lambda = (p.perHead ? r.fill({p.H}, [&] { return 0.5 + r.uniform(); }) : r.fill({p.B, p.T, p.H}, [&] {
               return 0.5 + r.uniform();
             })).to(DType::F32);
  return p;
}

// x of A x = b for A [n, n], symmetric and positive, by Gauss.
Values solved(Values A, Values b) {
  const size_t n = b.size();
  for (size_t i = 0; i < n; ++i)
    for (size_t row = i + 1; row < n; ++row) {
      const double factor = A[row * n + i] / A[i * n + i];
      for (size_t c = i; c < n; ++c) A[row * n + c] -= factor * A[i * n + c];
      b[row] -= factor * b[i];
    }
  for (size_t i = n; i-- > 0;) {
    for (size_t c = i + 1; c < n; ++c) b[i] -= A[i * n + c] * b[c];
    b[i] /= A[i * n + i];
  }
  return b;
}

Values reference(const Problem& p, const Values& q, const Values& k, const Values& v, const Values& lambda) {
  Values o(static_cast<size_t>(p.B * p.T * p.H * p.V));
  const auto K = static_cast<size_t>(p.K);
  for (int64_t row = 0; row < p.B * p.T * p.H; ++row) {
    const int64_t h = row % p.H, b = row / p.H / p.T, at = row / p.H % p.T + p.S - p.T;
    std::vector<int64_t> keys;
    std::vector<Values> z;
    Values w, A(K * K), mu(K);
    double omega = 0;
    for (int64_t j = 0; j < p.S; ++j) {
      if ((p.causal && j > at) || !(j >= at - p.left || j < p.first)) continue;
      keys.push_back((b * p.S + j) * p.HKV + h / (p.H / p.HKV));
      z.emplace_back(K);
      double score = 0;
      for (int64_t c = 0; c < p.K; ++c) {
        z.back()[static_cast<size_t>(c)] = k[keys.back() * p.K + c] - q[row * p.K + c];
        score += q[row * p.K + c] * k[keys.back() * p.K + c];
      }
      w.push_back(std::exp(score / std::sqrt(static_cast<double>(p.K))));
      omega += w.back();
      for (size_t x = 0; x < K; ++x) {
        mu[x] += w.back() * z.back()[x];
        for (size_t y = 0; y < K; ++y) A[x * K + y] += w.back() * z.back()[x] * z.back()[y];
      }
    }
    if (keys.empty()) continue;
    for (size_t x = 0; x < K; ++x) A[x * K + x] += lambda[p.perHead ? h : row] * omega;
    const Values rho = solved(A, mu);
    double divisor = omega;
    for (size_t x = 0; x < K; ++x) divisor -= mu[x] * rho[x];
    for (size_t j = 0; j < keys.size(); ++j) {
      double share = 1;
      for (size_t x = 0; x < K; ++x) share -= z[j][x] * rho[x];
      for (int64_t c = 0; c < p.V; ++c) o[row * p.V + c] += w[j] * share / divisor * v[keys[j] * p.V + c];
    }
  }
  return o;
}

Invocation callOf(const char* name, const Problem& p) {
  Invocation call(name);
  call.in("q", p.q).in("k", p.k).in("v", p.v).in("lambda", p.lambda).set("causal", p.causal ? 1 : 0);
  call.setPair("window", static_cast<double>(p.left), INFINITY).set("outputResidual", 1);
  return call.set("sinkTokens", static_cast<double>(p.first));
}

// One number for each gradient: its product with a direction, against the difference of the loss along it.
void checkGradients(const Problem& p, Random& r, const Array& solution) {
  const Array dO = r.normals({p.B, p.T, p.H, p.V});
  Invocation call = callOf("localLinearAttentionBackward", p);
  call.in("dO", dO);
  if (r.below(2)) call.in("solution", solution);
  const Results grads = call.run();
  const Values values[] = {p.q.values(), p.k.values(), p.v.values(), p.lambda.values()};
  const char* names[] = {"dq", "dk", "dv", "dLambda"};
  for (int i = 0; i < 4; ++i) {
    Values direction(values[i].size());
    for (double& x : direction) x = r.normal();
    const auto loss = [&](double step) {
      Values at[4];
      std::copy(std::begin(values), std::end(values), at);
      for (size_t j = 0; j < direction.size(); ++j) at[i][j] += step * direction[j];
      const Values o = reference(p, at[0], at[1], at[2], at[3]);
      double sum = 0;
      for (size_t j = 0; j < o.size(); ++j) sum += o[j] * dO.at(static_cast<int64_t>(j));
      return sum;
    };
    double product = 0, size = 0;
    for (size_t j = 0; j < direction.size(); ++j) {
      const double term = grads[names[i]].at(static_cast<int64_t>(j)) * direction[j];
      product += term;
      size += term * term;
    }
    const double difference = (loss(1e-5) - loss(-1e-5)) / 2e-5;
    check(std::fabs(product - difference) <= 1e-4 * std::sqrt(size) + 1e-5, "%s: %g along a direction, not %g",
          names[i], product, difference);
  }
}

TEST("local linear attention: drawn sizes and masks") {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16}) {
    Random r(41, dtype);
    for (int i = 0; i < (quick() ? 4 : 24); ++i) {
      const Problem p = drawProblem(r);
      const Values o = reference(p, p.q.values(), p.k.values(), p.v.values(), p.lambda.values());
      const Results results = callOf("localLinearAttention", p).set("outputSolution", 1).run();
      expectNear("o", results["o"], o, 5e-6);
      for (const double left : results["residual"].values()) check(left < 1e-5, "residual %g", left);
      checkGradients(p, r, results["solution"]);
    }
  }
}

}  // namespace
}  // namespace rankone::test
