// The papers' names: each is a cell of the grid, some with arguments of their own.
#include "ops/presets.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "compare.h"
#include "grid.h"

namespace rankone::test {
namespace {

Gate gateOf(const Preset& preset) {
  switch (preset.gate) {
    case GateKind::None: return Gate::None;
    case GateKind::Head: return Gate::Head;
    case GateKind::Token: return Gate::Token;
    case GateKind::Channel: return Gate::Channel;
  }
  return Gate::None;
}

constexpr DType kDTypes[] = {DType::F32, DType::BF16, DType::F16};

void testPreset(const Preset& preset, DType dtype) {
  const bool fixed = preset.fixedGate != FixedGate::No, lightning = preset.fixedGate == FixedGate::Lightning;
  Sizes s{2, 21, 2, 4, 17, 9, preset.householder ? 2 : 1, gateOf(preset), preset.update == UpdateRule::Delta};
  GridProblem p = drawProblem(s, Numbers::Mild, true, 21, dtype);
  if (fixed) p.g = p.g.to(DType::F32);
  for (int64_t h = 0; h < s.HV && fixed; ++h) {
    const double x = static_cast<double>(h);
    p.g.set(h, lightning ? -(8.0 / 4) * (1 - 1.0 / 3) * x : std::log1p(-std::exp2(-5 - x)));
  }
  const GridForward f = referenceForward(s, p.values());
  const GridGradients b = referenceBackward(s, p.values());
  if (fixed) p.g = Array();
  const auto call = [&](Invocation c) { return lightning ? c.set("layer", 1).set("layers", 3) : c; };
  const std::string name = preset.name;
  const Results forward = call(forwardCall(p, name)).set("outputFinalState", 1).set("saveForBackward", 1).run();
  expectNear("o", forward["o"], {f.o, {}}, Rows::Tokens, kOutputLimit);
  expectNear("finalState", forward["finalState"], {f.finalState, {}}, Rows::States, kStateLimit);
  const Results grads = call(backwardCall(p, name + "Backward")).saved(forward.saved).run();
  expectNear("dq", grads["dq"], {b.dq, {}}, Rows::Tokens, kStateLimit);
  expectNear("dk", grads["dk"], {b.dk, {}}, Rows::Tokens, kStateLimit);
  expectNear("dv", grads["dv"], {b.dv, {}}, Rows::Tokens, kStateLimit);
  if (p.g.present()) expectNear("dg", grads["dg"], {b.dg, {}}, Rows::Tokens, kGateLimit);
  if (p.beta.present()) expectNear("dbeta", grads["dbeta"], {b.dbeta, {}}, Rows::Tokens, kGateLimit);
  expectNear("dInitialState", grads["dInitialState"], {b.dInitialState, {}}, Rows::States, kStateLimit);
}

const bool added = [] {
  for (const Preset& preset : presets())
    addTest(preset.name, [&preset] {
      for (const DType dtype : kDTypes) testPreset(preset, dtype);
    });
  return true;
}();

// A gate per channel and k = 1 - e^g.
TEST("hgrn2") {
  for (int64_t T : {1, 15, 70, 32}) {
    const Sizes s{2, T, 3, 3, 17, 9, 1, Gate::Channel, false};
    GridProblem p = drawProblem(s, Numbers::Mild, true, 22, kDTypes[T % 3]);
    GridValues values = p.values();
    for (size_t i = 0; i < values.k.size(); ++i) values.k[i] = -std::expm1(values.g[i]);
    const GridForward f = referenceForward(s, values);
    GridGradients b = referenceBackward(s, values);
    for (size_t i = 0; i < b.dg.size(); ++i) b.dg[i] -= b.dk[i] * std::exp(values.g[i]);
    const auto call = [&](const char* name) {
      return Invocation(name).in("q", p.q).in("v", p.v).in("g", p.g).in("initialState", p.initialState);
    };
    const Results forward = call("hgrn2").set("outputFinalState", 1).set("saveForBackward", 1).run();
    expectNear("o", forward["o"], {f.o, {}}, Rows::Tokens, kOutputLimit);
    expectNear("finalState", forward["finalState"], {f.finalState, {}}, Rows::States, kStateLimit);
    const Results grads =
        call("hgrn2Backward").in("dO", p.dO).in("dFinalState", p.dFinalState).saved(forward.saved).run();
    expectNear("dq", grads["dq"], {b.dq, {}}, Rows::Tokens, kStateLimit);
    expectNear("dv", grads["dv"], {b.dv, {}}, Rows::Tokens, kStateLimit);
    expectNear("dg", grads["dg"], {b.dg, {}}, Rows::Tokens, kGateLimit);
    expectNear("dInitialState", grads["dInitialState"], {b.dInitialState, {}}, Rows::States, kStateLimit);
  }
}

// q = C, k = B, v = d x, g = d A, y = o + D x with d = clamp(softplus(dt + dtBias)).
TEST("mamba2") {
  constexpr double kLow = 0.05, kHigh = 2;
  for (int64_t T : {1, 15, 70, 32}) {
    const Sizes s{2, T, 2, 4, 17, 9, 1, Gate::Token, false};
    Random random(23, kDTypes[T % 3]);
    const Array x = random.normals({s.B, T, s.HV, s.V}), dt = random.normals({s.B, T, s.HV}),
                A = random.fill({s.HV}, [&] { return -random.uniform(); }).to(DType::F32),
                B = random.normals({s.B, T, s.H, s.K}), C = random.normals({s.B, T, s.H, s.K}),
                D = random.normals({s.HV}).to(DType::F32), dtBias = random.normals({s.HV}).to(DType::F32),
                initial = random.normals({s.B, s.HV, s.K, s.V}).to(DType::F32), dY = random.normals(x.shape()),
                dFinal = random.normals(initial.shape()).to(DType::F32);
    GridValues values{C.values(),  B.values(),      x.values(), dt.values(), {}, initial.values(),
                      dY.values(), dFinal.values(), 1};
    Values step(dt.size());
    for (int64_t i = 0; i < dt.size(); ++i) {
      step[i] = std::clamp(std::log1p(std::exp(dt.at(i) + dtBias.at(i % s.HV))), kLow, kHigh);
      values.g[i] = step[i] * A.at(i % s.HV);
      for (int64_t c = 0; c < s.V; ++c) values.v[i * s.V + c] *= step[i];
    }
    GridForward f = referenceForward(s, values);
    const GridGradients b = referenceBackward(s, values);
    Values dx(x.size()), ddt(dt.size()), dA(s.HV), dD(s.HV), dDtBias(s.HV);
    for (int64_t i = 0; i < dt.size(); ++i) {
      const int64_t h = i % s.HV;
      double dStep = A.at(h) * b.dg[i];
      dA[h] += step[i] * b.dg[i];
      for (int64_t at = i * s.V; at < (i + 1) * s.V; ++at) {
        f.o[at] += D.at(h) * x.at(at);
        dStep += x.at(at) * b.dv[at];
        dx[at] = step[i] * b.dv[at] + D.at(h) * dY.at(at);
        dD[h] += x.at(at) * dY.at(at);
      }
      const bool held = step[i] == kLow || step[i] == kHigh;
      ddt[i] = held ? 0 : dStep / (1 + std::exp(-dt.at(i) - dtBias.at(h)));
      dDtBias[h] += ddt[i];
    }
    const auto call = [&](const char* name) {
      Invocation c(name);
      c.in("x", x).in("dt", dt).in("A", A).in("B", B).in("C", C).in("D", D).in("dtBias", dtBias);
      return c.in("initialState", initial).set("dtSoftplus", 1).setPair("dtLimit", kLow, kHigh);
    };
    const Results forward = call("mamba2").set("outputFinalState", 1).set("saveForBackward", 1).run();
    expectNear("y", forward["y"], {f.o, {}}, Rows::Tokens, kOutputLimit);
    expectNear("finalState", forward["finalState"], {f.finalState, {}}, Rows::States, kStateLimit);
    const Results grads = call("mamba2Backward").in("dY", dY).in("dFinalState", dFinal).saved(forward.saved).run();
    expectNear("dx", grads["dx"], {dx, {}}, Rows::Tokens, kStateLimit);
    expectNear("ddt", grads["ddt"], {ddt, {}}, Rows::Tokens, kGateLimit);
    expectNear("dB", grads["dB"], {b.dk, {}}, Rows::Tokens, kStateLimit);
    expectNear("dC", grads["dC"], {b.dq, {}}, Rows::Tokens, kStateLimit);
    expectNear("dA", grads["dA"], dA, kGateLimit);
    expectNear("dD", grads["dD"], dD, kStateLimit);
    expectNear("dDtBias", grads["dDtBias"], dDtBias, kGateLimit);
    expectNear("dInitialState", grads["dInitialState"], {b.dInitialState, {}}, Rows::States, kStateLimit);
  }
}

}  // namespace
}  // namespace rankone::test
