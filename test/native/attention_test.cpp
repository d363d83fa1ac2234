// Attention against float64, its gradients along random directions, and decodes over caches against the whole.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "compare.h"
#include "invocation.h"
#include "random.h"

namespace rankone::test {
namespace {

struct Mask {
  bool causal = true;
  int64_t left = 1 << 20, right = 1 << 20, first = 0;
  double softcap = 0;
};

struct Problem {
  int64_t B, T, S, H, HKV, K, V;
  Mask mask;
  Array q, k, v, sinks, gate;
};

Problem drawProblem(Random& r) {
  constexpr int64_t kTokens[] = {0, 1, 2, 5, 8, 9, 33, 70, 130}, kWidths[] = {1, 4, 7, 16, 20, 33, 65};
  const auto of = [&](auto& list) { return list[r.below(static_cast<int64_t>(std::size(list)))]; };
  Problem p{1 + r.below(2),
            of(kTokens),
            of(kTokens) + r.below(120),
            0,
            1 + r.below(2),
            of(kWidths),
            of(kWidths),
            {},
            {},
            {},
            {},
            {},
            {}};
  p.H = p.HKV * (1 + r.below(3));
  p.mask.causal = r.below(3) != 0;
  if (r.below(2)) p.mask.left = r.below(60);
  if (r.below(2)) p.mask.right = r.below(20);
  if (r.below(3) == 0) p.mask.first = r.below(120);
  if (r.below(4) == 0) p.mask.softcap = 2;
  p.q = r.normals({p.B, p.T, p.H, p.K});
  p.k = r.normals({p.B, p.S, p.HKV, p.K});
  p.v = r.normals({p.B, p.S, p.HKV, p.V});
  if (r.below(2)) p.sinks = r.normals({p.H}).to(DType::F32);
  if (r.below(2)) p.gate = r.normals({p.B, p.T, p.H, p.V});
  return p;
}

Values reference(const Problem& p, const Values& q, const Values& k, const Values& v, const Values& gate) {
  Values o(static_cast<size_t>(p.B * p.T * p.H * p.V));
  for (int64_t row = 0; row < p.B * p.T * p.H; ++row) {
    const int64_t h = row % p.H, b = row / p.H / p.T, at = row / p.H % p.T + p.S - p.T;
    const double sink = p.sinks.present() ? std::exp(p.sinks.at(h)) : 0;
    double total = sink;
    for (int64_t j = 0; j < p.S; ++j) {
      const bool inside = j >= at - p.mask.left && j <= at + p.mask.right;
      if ((p.mask.causal && j > at) || !(inside || j < p.mask.first)) continue;
      const int64_t key = (b * p.S + j) * p.HKV + h / (p.H / p.HKV);
      double s = 0;
      for (int64_t c = 0; c < p.K; ++c) s += q[row * p.K + c] * k[key * p.K + c];
      s /= std::sqrt(static_cast<double>(p.K));
      if (p.mask.softcap > 0) s = p.mask.softcap * std::tanh(s / p.mask.softcap);
      total += std::exp(s);
      for (int64_t c = 0; c < p.V; ++c) o[row * p.V + c] += std::exp(s) * v[key * p.V + c];
    }
    for (int64_t c = 0; c < p.V && total > 0; ++c) {
      o[row * p.V + c] /= total;
      if (!gate.empty()) o[row * p.V + c] /= 1 + std::exp(-gate[row * p.V + c]);
    }
  }
  return o;
}

Invocation callOf(const char* name, const Problem& p) {
  Invocation call(name);
  call.in("q", p.q).in("k", p.k).in("v", p.v).in("sinks", p.sinks).in("gate", p.gate).set("causal", p.mask.causal);
  call.setPair("window", static_cast<double>(p.mask.left), static_cast<double>(p.mask.right));
  return call.set("sinkTokens", static_cast<double>(p.mask.first)).set("softcap", p.mask.softcap);
}

// One number for each gradient: its product with a direction, against the difference of the loss along it.
void checkGradients(const Problem& p, Random& r) {
  const Array dO = r.normals({p.B, p.T, p.H, p.V});
  const Results grads = callOf("attentionBackward", p).in("dO", dO).run();
  const Values values[] = {p.q.values(), p.k.values(), p.v.values(), p.gate.values()};
  const char* names[] = {"dq", "dk", "dv", "dGate"};
  for (int i = 0; i < 4; ++i) {
    if (values[i].empty()) continue;
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
    check(std::fabs(product - difference) <= 1e-5 * std::sqrt(size) + 1e-6, "%s: %g along a direction, not %g",
          names[i], product, difference);
  }
}

TEST("attention: drawn sizes and masks") {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16}) {
    Random r(31, dtype);
    for (int i = 0; i < (quick() ? 6 : 40); ++i) {
      const Problem p = drawProblem(r);
      const Values gate = p.gate.values();
      const Values o = reference(p, p.q.values(), p.k.values(), p.v.values(), gate);
      expectNear("o", callOf("attention", p).run()["o"], o, kOutputLimit);
      checkGradients(p, r);
    }
  }
}

Array tokensOf(const Array& all, int64_t begin, int64_t end) {
  Shape shape = all.shape();
  const int64_t rows = shape[0], tokens = shape[1], inner = all.size() / std::max<int64_t>(1, rows * tokens);
  shape[1] = end - begin;
  Array part(shape, all.tensor().dtype);
  for (int64_t b = 0; b < rows; ++b)
    for (int64_t i = 0; i < (end - begin) * inner; ++i)
      part.set(b * (end - begin) * inner + i, all.at((b * tokens + begin) * inner + i));
  return part;
}

TEST("attention: prefill and decode over a cache") {
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16}) {
    Random r(32, dtype);
    for (int i = 0; i < (quick() ? 3 : 12); ++i) {
      Problem p = drawProblem(r);
      p.T = p.S = 1 + r.below(150);
      p.mask.causal = true;
      const bool ring = i % 3;
      p.mask.left = ring ? r.below(40) : 1 << 20;
      p.mask.first = ring ? r.below(6) : 0;
      p.q = r.normals({p.B, p.T, p.H, p.K});
      p.k = r.normals({p.B, p.T, p.HKV, p.K});
      p.v = r.normals({p.B, p.T, p.HKV, p.V});
      p.gate = Array();
      const Values o = reference(p, p.q.values(), p.k.values(), p.v.values(), {});
      const int64_t window = ring ? p.mask.left + 1 + r.below(3) : 0;
      KvCache cache(p.B, p.HKV, p.K, p.V, ring ? window + p.mask.first : p.T, window, dtype);
      Array all({p.B, p.T, p.H, p.V}, dtype);
      for (int64_t at = 0; at < p.T;) {
        const int64_t end = std::min(p.T, at + (r.below(2) ? 1 : 1 + r.below(60)));
        Problem step = p;
        step.q = tokensOf(p.q, at, end);
        step.k = tokensOf(p.k, at, end);
        step.v = tokensOf(p.v, at, end);
        const Array part = callOf("attention", step).cache(cache).run()["o"];
        const int64_t inner = p.H * p.V;
        for (int64_t b = 0; b < p.B; ++b)
          for (int64_t j = 0; j < (end - at) * inner; ++j)
            all.set((b * p.T + at) * inner + j, part.at(b * (end - at) * inner + j));
        at = end;
      }
      check(cache.length(0) == p.T, "length");
      expectNear("o", all, o, kOutputLimit);
    }
  }
}

}  // namespace
}  // namespace rankone::test
