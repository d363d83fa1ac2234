// Forms of the layer parts: gated norms, the L2 norm and rotary embeddings against float64; packed convolutions and
// pools of their states bit for bit against calls of their own.
#include <cmath>
#include <cstring>

#include "check.h"
#include "compare.h"
#include "invocation.h"
#include "random.h"
#include "samples.h"

namespace rankone::test {
namespace {

constexpr DType kTypes[] = {DType::F32, DType::BF16, DType::F16};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// y = h * weight [* act(gate)] with h = z / root(divided sum of z^2 + eps), z = x [* act(gate)]
void testNorm(int64_t rows, int64_t D, bool l2, bool silu, bool gateFirst, Random& random) {
  constexpr double kEps = 1e-3;
  const bool gated = !l2;
  const Shape shape{rows, D};
  const Array x = random.normals(shape), dY = random.normals(shape);
  const Array gate = gated ? random.normals(shape) : Array(), weight = gated ? random.normals({D}) : Array();
  Values y(x.size()), dx(x.size()), dGate(x.size()), dWeight(D);
  for (int64_t row = 0; row < rows; ++row) {
    Values z(D), act(D, 1), slope(D), u(D);
    double squares = 0, along = 0;
    for (int64_t i = 0; i < D; ++i) {
      const int64_t at = row * D + i;
      if (gated) {
        const double g = gate.at(at), s = sigmoid(g);
        act[i] = silu ? g * s : s;
        slope[i] = silu ? s * (1 + g * (1 - s)) : s * (1 - s);
      }
      z[i] = x.at(at) * (gateFirst ? act[i] : 1);
      squares += z[i] * z[i];
    }
    const double over = l2 ? 1 : static_cast<double>(D), factor = 1 / std::sqrt(squares / over + kEps);
    for (int64_t i = 0; i < D; ++i) {
      const int64_t at = row * D + i;
      const double after = gateFirst ? 1 : act[i], w = gated ? weight.at(i) : 1;
      y[at] = z[i] * factor * w * after;
      u[i] = dY.at(at) * w * after;
      dWeight[i] += dY.at(at) * after * z[i] * factor;
      if (!gateFirst) dGate[at] = dY.at(at) * w * z[i] * factor * slope[i];
      along += u[i] * z[i];
    }
    for (int64_t i = 0; i < D; ++i) {
      const int64_t at = row * D + i;
      const double dz = factor * (u[i] - z[i] * along * factor * factor / over);
      dx[at] = dz * (gateFirst ? act[i] : 1);
      if (gateFirst) dGate[at] = dz * x.at(at) * slope[i];
    }
  }
  const std::string name = l2 ? "l2norm" : "rmsNormGated";
  const auto call = [&](const std::string& function) {
    Invocation c(function);
    c.in("x", x).set("eps", kEps);
    if (gated) {
      c.in("gate", gate).in("weight", weight).set("normBeforeGate", !gateFirst);
      c.choose("activation", silu ? "silu" : "sigmoid");
    }
    return c;
  };
  expectNear(name, call(name).run()["y"], y, 2e-6);
  const Results grads = call(name + "Backward").in("dY", dY).run();
  expectNear(name + " dx", grads["dx"], dx, 4e-6);
  if (!gated) return;
  expectNear(name + " dGate", grads["dGate"], dGate, 4e-6);
  expectNear(name + " dWeight", grads["dWeight"], dWeight, 2e-6);
}

TEST("forms of the norms") {
  for (const DType dtype : kTypes) {
    Random random(61, dtype);
    for (int64_t D : {2, 15, 16, 17, 33, 65, 300, 1025})
      for (int64_t rows : {0, 1, 33}) {
        testNorm(rows, D, true, false, false, random);
        for (bool silu : {false, true})
          for (bool gateFirst : {false, true}) testNorm(rows, D, false, silu, gateFirst, random);
      }
  }
}

struct Rope {
  int64_t B, T, H, D, R;
  bool interleaved = false, given = false;  // positions and frequencies: given, or offset and theta
};

Values turned(const Rope& s, const Array& x, const Array& positions, const Array& frequencies, double direction) {
  Values y = x.values();
  for (int64_t row = 0; row < s.B * s.T * s.H; ++row) {
    const int64_t token = row / s.H;
    const double position = s.given ? positions.at(token) : 5 + static_cast<double>(token % s.T);
    for (int64_t i = 0; i < s.R / 2; ++i) {
      const double angle =
          position * (s.given ? frequencies.at(i) : std::pow(77.0, -2.0 * static_cast<double>(i) / s.R));
      const int64_t a = row * s.D + (s.interleaved ? 2 * i : i), b = s.interleaved ? a + 1 : a + s.R / 2;
      const double c = 1.5 * std::cos(angle), t = 1.5 * direction * std::sin(angle);
      y[a] = x.at(a) * c - x.at(b) * t;
      y[b] = x.at(a) * t + x.at(b) * c;
    }
  }
  return y;
}

void testRope(const Rope& s, Random& random) {
  const Shape shape{s.B, s.T, s.H, s.D};
  const Array x = random.normals(shape), k = random.normals({s.B, s.T, 1, s.D});
  Array positions, frequencies;
  if (s.given) {
    positions = Array({s.B, s.T}, DType::I32);
    for (int64_t i = 0; i < positions.size(); ++i) positions.set(i, static_cast<double>(i * 104729 % 2000003 - 500));
    frequencies = random.normals({s.R / 2}).to(DType::F32);
  }
  const auto call = [&](const char* name) {
    Invocation c(name);
    c.in("positions", positions).in("inverseFrequencies", frequencies).set("rotaryDim", static_cast<double>(s.R));
    c.set("interleaved", s.interleaved).set("scale", 1.5);
    if (!s.given) c.set("offset", 5).set("theta", 77);
    return c;
  };
  char label[80];
  std::snprintf(label, sizeof label, "rope B %d T %d H %d D %d R %d", int(s.B), int(s.T), int(s.H), int(s.D), int(s.R));
  const Array y = call("rope").in("x", x).run()["y"];
  expectNear(label, y, turned(s, x, positions, frequencies, 1), 3e-7);
  expectNear(label, call("ropeBackward").in("dY", x).run()["dx"], turned(s, x, positions, frequencies, -1), 3e-7);
  const Array q = x.copy(), other = k.copy();
  call("ropeInPlace").in("q", q).in("k", other).run();
  check(q.sameBits(y), "%s: other bits in place", label);
  check(other.sameBits(call("rope").in("x", k).run()["y"]), "%s: k has other bits in place", label);
}

TEST("rope") {
  for (const DType dtype : kTypes) {
    Random random(62, dtype);
    for (bool interleaved : {false, true})
      for (bool given : {false, true})
        for (const Rope& s : {Rope{1, 1, 1, 2, 2}, Rope{2, 3, 2, 17, 10}, Rope{1, 40, 3, 33, 32}, Rope{2, 5, 4, 70, 66},
                              Rope{1, 9, 1, 260, 258}, Rope{2, 0, 2, 8, 8}, Rope{0, 3, 2, 8, 8}})
          testRope({s.B, s.T, s.H, s.D, s.R, interleaved, given}, random);
  }
}

void testPackedConvolution(const std::vector<int64_t>& lengths, int64_t D, int64_t W, Random& random) {
  const int64_t N = static_cast<int64_t>(lengths.size()), past = W - 1, slots = N + 2;
  Values starts{0};
  for (int64_t length : lengths) starts.push_back(starts.back() + static_cast<double>(length));
  const Array x = random.normals({1, static_cast<int64_t>(starts.back()), D}), dY = random.normals(x.shape());
  const Array weight = random.normals({D, W}), bias = random.normals({D});
  const Array initial = random.normals({N, D, past}).to(DType::F32),
              dFinal = random.normals({N, D, past}).to(DType::F32);
  const Array cuSeqlens({N + 1}, starts, D % 2 ? DType::I64 : DType::I32);
  const auto call = [&](const char* name, const Array& tokens) {
    Invocation c(name);
    return c.in("x", tokens).in("weight", weight).in("bias", bias).choose("activation", "silu");
  };
  const Results whole =
      call("shortConv", x).in("initialState", initial).in("cuSeqlens", cuSeqlens).set("outputFinalState", 1).run();
  const Results grads = call("shortConvBackward", x)
                            .in("initialState", initial)
                            .in("cuSeqlens", cuSeqlens)
                            .in("dY", dY)
                            .in("dFinalState", dFinal)
                            .run();
  const bool pooled = W > 1 && N > 0;
  StateBuffer pool(slots, pooled ? D : 1, 1, pooled ? past : 1, 0);
  Array indices({N}, DType::I32);
  for (int64_t n = 0; n < N; ++n) indices.set(n, static_cast<double>(slots - 1 - n));
  Results fromPool;
  if (pooled) {
    for (int64_t e = 0; e < pool.size(); ++e) pool.data()[e] = 7;
    for (int64_t e = 0; e < initial.size(); ++e)
      pool.data()[(slots - 1 - e / (D * past)) * D * past + e % (D * past)] = static_cast<float>(initial.at(e));
    fromPool = call("shortConv", x).in("cuSeqlens", cuSeqlens).in("stateIndices", indices).state(pool).run();
    check(fromPool["y"].sameBits(whole["y"]), "a pool: other outputs");
  }
  const auto part = [&](const Array& of, int64_t from, int64_t count) {
    Array some({1, count, D}, of.tensor().dtype);
    for (int64_t e = 0; e < some.size(); ++e) some.set(e, of.at(from * D + e));
    return some;
  };
  const auto stateOf = [&](const Array& of, int64_t n) {
    Array one({1, D, past});
    for (int64_t e = 0; e < one.size(); ++e) one.set(e, of.at(n * D * past + e));
    return one;
  };
  Values dWeight(D * W), dBias(D);
  for (int64_t n = 0; n < N; ++n) {
    const int64_t from = static_cast<int64_t>(starts[n]);
    const Array alone = part(x, from, lengths[n]), state = stateOf(initial, n);
    const Results y = call("shortConv", alone).in("initialState", state).set("outputFinalState", 1).run();
    check(part(whole["y"], from, lengths[n]).sameBits(y["y"]), "sequence %d: other outputs than alone", int(n));
    check(stateOf(whole["finalState"], n).sameBits(y["finalState"]), "sequence %d: another state", int(n));
    for (int64_t e = 0; pooled && e < D * past; ++e)
      check(pool.data()[(slots - 1 - n) * D * past + e] == static_cast<float>(y["finalState"].at(e)),
            "sequence %d: another state in the pool", int(n));
    const Results d = call("shortConvBackward", alone)
                          .in("initialState", state)
                          .in("dY", part(dY, from, lengths[n]))
                          .in("dFinalState", stateOf(dFinal, n))
                          .run();
    check(part(grads["dx"], from, lengths[n]).sameBits(d["dx"]), "sequence %d: another dx", int(n));
    check(stateOf(grads["dInitialState"], n).sameBits(d["dInitialState"]), "sequence %d: another dInitialState",
          int(n));
    for (int64_t e = 0; e < D * W; ++e) dWeight[e] += d["dWeight"].at(e);
    for (int64_t e = 0; e < D; ++e) dBias[e] += d["dBias"].at(e);
  }
  expectNear("dWeight", grads["dWeight"], dWeight, 5e-6);
  expectNear("dBias", grads["dBias"], dBias, 1e-5);
  for (int64_t e = 0; pooled && e < 2 * D * past; ++e) check(pool.data()[e] == 7, "a slot that was nobody's");
}

TEST("packed convolutions and pools of their states") {
  for (const DType dtype : kTypes) {
    Random random(63, dtype);
    for (const std::vector<int64_t>& lengths :
         {std::vector<int64_t>{0, 1, 2, 65, 0, 64, 129, 0}, {7}, {0, 0}, {1, 1, 1, 1, 1}})
      for (const auto& [D, W] : {std::pair<int64_t, int64_t>{1, 4}, {33, 3}, {520, 4}, {6, 1}, {5, 64}})
        testPackedConvolution(lengths, D, W, random);
  }
}

}  // namespace
}  // namespace rankone::test
