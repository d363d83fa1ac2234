#include "ops/gated_scan.h"

#include <cmath>

#include "ops/gradients.h"
#include "ops/sequences.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

using namespace gated_scan_inputs;
using namespace gated_scan_options;

constexpr int64_t kMaxWidth = 512;

void checkWidth(const Call& call, int input) {
  const Tensor& t = call.input(input);
  if (t.shape[3] < 1 || t.shape[3] > kMaxWidth)
    fail(ErrorKind::Range, "%s: expected a size from 1 to %lld, got shape %s", call.spec->inputs[input].name,
         static_cast<long long>(kMaxWidth), t.shapeText().c_str());
}

void check(const Call& call, const GatedScanSpec& spec, const GatedScanProblem& p) {
  expectFinite(call, kScale);
  checkWidth(call, kQ);
  checkWidth(call, kV);
  if (p.H < 1)
    fail(ErrorKind::Range, "%s: expected at least one head, got shape %s", call.spec->inputs[kQ].name,
         call.input(kQ).shapeText().c_str());
  expectCountable(call.spec->inputs[kQ].name, {p.B, p.T, p.H, p.K, p.V});
  expectCountable(call.spec->inputs[kQ].name, {p.N, p.H, p.K, p.V});
  expectShape(call, kV, {p.B, p.T, p.H, p.V}, "[B,T,H,V]");
  expectDType(call, kV, kQ);
  for (int input : {int{kK}, int{kG}, spec.a, spec.b}) {
    if (input < 0) continue;
    expectShape(call, input, {p.B, p.T, p.H, p.K}, "[B,T,H,K]");
    expectDType(call, input, kQ, input == kG);
  }
  if (spec.bonus >= 0) {
    expectShape(call, spec.bonus, {p.H, p.K}, "[H,K]");
    expectDType(call, spec.bonus, kQ, true);
  }
  if (call.input(spec.initialState).present())
    expectShape(call, spec.initialState, {p.N, p.H, p.K, p.V}, p.cuSeqlens ? "[N,H,K,V]" : "[B,H,K,V]");
}

void bind(const Call& call, const GatedScanSpec& spec, GatedScanProblem& p, bool planning) {
  if (planning) {
    expectRank(call, kQ, 4, "[B,T,H,K]");
    expectRank(call, kV, 4, "[B,T,H,V]");
  }
  const Tensor& q = call.input(kQ);
  p.rule = spec.rule;
  p.B = q.shape[0];
  p.T = q.shape[1];
  p.H = q.shape[2];
  p.K = q.shape[3];
  p.V = call.input(kV).shape[3];
  const Sequences sequences = sequencesOf(call, spec.cuSeqlens, p.B, p.T, planning);
  p.N = sequences.N;
  p.cuSeqlens = sequences.starts;
  if (planning) check(call, spec, p);
  const auto view = [&](int input) { return input < 0 ? FloatView() : FloatView(call.input(input)); };
  p.q = view(kQ);
  p.k = view(kK);
  p.v = view(kV);
  p.g = view(kG);
  p.a = view(spec.a);
  p.b = view(spec.b);
  p.bonus = view(spec.bonus);
  p.scale = static_cast<float>(call.number(kScale, spec.scale != 0 ? spec.scale : 1 / std::sqrt(double(p.K))));
  p.initialState = call.input(spec.initialState).f32();
  p.cancel = call.cancel;
}

GatedScanForward bindForward(const Call& call, const GatedScanSpec& spec, bool planning) {
  GatedScanForward p{};
  bind(call, spec, p, planning);
  const Sequences sequences{p.B, p.T, p.N, p.cuSeqlens};
  const StateMemory state =
      bindState(call, {spec.initialState, spec.cuSeqlens + 1, 1, p.H, p.K, p.V, "HV,K,V"}, sequences, planning);
  p.initialState = state.initial;
  p.finalState = state.final;
  p.stateRows = state.rows;
  p.o = call.outputs[0].data;
  p.oDType = call.outputs[0].dtype;
  return p;
}

}  // namespace

void planGatedScan(Call& call, const GatedScanSpec& spec) {
  const GatedScanForward p = bindForward(call, spec, true);
  setOutput(call, 0, {p.B, p.T, p.H, p.V}, call.input(kQ).dtype);
  if (!call.flag(kOutputFinalState)) return;
  if (call.state) fail(ErrorKind::Type, "outputFinalState: a call with state advances that state instead");
  setOutput(call, 1, {p.N, p.H, p.K, p.V});
}

void runGatedScan(const Call& call, const GatedScanSpec& spec) {
  const GatedScanForward p = bindForward(call, spec, false);
  if (p.N > 0) gatedScan(p);
}

void planGatedScanBackward(Call& call, const GatedScanSpec& spec) {
  GatedScanBackward p{};
  bind(call, spec, p, true);
  const int dO = spec.cuSeqlens + 1, dFinalState = dO + 1;
  expectShape(call, dO, {p.B, p.T, p.H, p.V}, "[B,T,H,V]");
  expectDType(call, dO, kQ);
  if (call.input(dFinalState).present())
    expectShape(call, dFinalState, {p.N, p.H, p.K, p.V}, p.cuSeqlens ? "[N,H,K,V]" : "[B,H,K,V]");
  for (int i = 0; i <= spec.initialState; ++i) {
    const Tensor& t = call.input(i);
    if (t.present()) setOutputLike(call, i, t, gradientDType(call, kGradDtype, t));
  }
}

void runGatedScanBackward(const Call& call, const GatedScanSpec& spec) {
  GatedScanBackward p{};
  bind(call, spec, p, false);
  const int dO = spec.cuSeqlens + 1;
  p.dO = FloatView(call.input(dO));
  p.dFinalState = call.input(dO + 1).f32();
  GradientBuffers gradients(call);
  const auto of = [&](int input) { return input < 0 ? nullptr : gradients.f32(input); };
  p.dq = of(kQ);
  p.dk = of(kK);
  p.dv = of(kV);
  p.dg = of(kG);
  p.da = of(spec.a);
  p.db = of(spec.b);
  p.dBonus = of(spec.bonus);
  p.dInitialState = of(spec.initialState);
  gatedScanBackward(p);
  gradients.finish();
}

}  // namespace rankone
