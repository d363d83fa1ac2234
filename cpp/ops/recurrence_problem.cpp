#include "ops/recurrence_problem.h"

#include <cmath>

#include "ops/shapes.h"

namespace rankone {
namespace {

using namespace recurrence_inputs;
using namespace recurrence_options;

constexpr int64_t kMaxStateDim = 512, kMaxHouseholder = 8;

GateKind gateOfRank(const Tensor& g) {
  switch (g.rank) {
    case -1: return GateKind::None;
    case 1: return GateKind::Head;
    case 3: return GateKind::Token;
    case 4: return GateKind::Channel;
  }
  fail(ErrorKind::Range, "g: expected rank 1 [HV], 3 [B,T,HV] or 4 [B,T,HV,K], got shape %s", g.shapeText().c_str());
}

UpdateRule updateRule(const Call& call) {
  const bool beta = call.input(kBeta).present();
  const UpdateRule rule = call.preset ? call.preset->update
                          : call.options[kUpdate].given
                              ? (call.integer(kUpdate, 0) ? UpdateRule::Delta : UpdateRule::Additive)
                          : beta ? UpdateRule::Delta
                                 : UpdateRule::Additive;
  if (rule == UpdateRule::Delta && !beta) fail(ErrorKind::Type, "beta: the delta update needs it, got none");
  if (rule == UpdateRule::Additive && beta)
    fail(ErrorKind::Type, "beta: expected none with the additive update, got a tensor");
  return rule;
}

void checkSize(const char* name, int64_t value, int64_t low, int64_t high, const Tensor& t) {
  if (value < low || value > high)
    fail(ErrorKind::Range, "%s: expected a size from %lld to %lld, got shape %s", name, static_cast<long long>(low),
         static_cast<long long>(high), t.shapeText().c_str());
}

void checkOptions(const Call& call) {
  expectFinite(call, kScale);
  if (call.options[kChunkSize].given) {
    const double c = call.options[kChunkSize].value;
    if (c != 16 && c != 32 && c != 64 && c != 128)
      fail(ErrorKind::Range, "chunkSize: expected 16, 32, 64 or 128, got %g", c);
  }
  expectInteger(call, kNumHouseholder, 1, kMaxHouseholder);
  if (call.integer(kCompute, 0) == 1) fail(ErrorKind::Range, "compute: expected 'f32' on this device, got 'bf16'");
  if (call.integer(kDevice, 0) == 1)
    fail(ErrorKind::Range, "device: expected 'cpu', got 'cuda' (cuda unavailable: this build has no CUDA backend)");
  if (call.preset && call.preset->fixedGate == FixedGate::Lightning) {
    if (!call.options[kLayer].given || !call.options[kLayers].given)
      fail(ErrorKind::Type, "layer, layers: expected both, the layer's index and how many there are");
    expectInteger(call, kLayers, 1, 1 << 20);
    expectInteger(call, kLayer, 0, call.integer(kLayers, 1));
  }
}

}  // namespace

void bindProblem(const Call& call, RecurrenceProblem& p, std::vector<float>* fixedGate) {
  const Tensor &q = call.input(kQ), &k = call.input(kK), &v = call.input(kV), &g = call.input(kG);
  checkOptions(call);
  expectRank(call, kQ, 4, "[B,T,H,K]");
  expectRank(call, kV, 4, "[B,T*n,HV,V]");
  p.n = call.integer(kNumHouseholder, 1);
  p.B = q.shape[0];
  p.T = q.shape[1];
  p.H = q.shape[2];
  p.K = q.shape[3];
  p.HV = v.shape[2];
  p.V = v.shape[3];
  checkSize("q", p.K, 1, kMaxStateDim, q);
  checkSize("v", p.V, 1, kMaxStateDim, v);
  if (p.H < 1) fail(ErrorKind::Range, "q: expected at least one head, got shape %s", q.shapeText().c_str());
  if (p.HV < 1 || p.HV % p.H != 0)
    fail(ErrorKind::Range, "v: expected HV to be a multiple of H = %lld, got shape %s", static_cast<long long>(p.H),
         v.shapeText().c_str());
  p.update = updateRule(call);
  if (p.n > 1 && p.update == UpdateRule::Additive)
    fail(ErrorKind::Range, "numHouseholder: the additive update takes 1, got %lld", static_cast<long long>(p.n));
  // A size of zero makes a tensor empty and leaves the others free: what is made of them must still be countable.
  expectCountable("q, v", {p.B, p.T, p.n, p.H, p.K});
  expectCountable("q, v", {p.B, p.T, p.n, p.HV, p.V, p.K});
  expectCountable("q, v", {p.B, p.HV, p.K, p.V});
  const char* kPattern = p.n == 1 ? "[B,T,H,K]" : "[B,T*n,H,K]";
  expectShape(call, kK, {p.B, p.T * p.n, p.H, p.K}, kPattern);
  expectShape(call, kV, {p.B, p.T * p.n, p.HV, p.V}, p.n == 1 ? "[B,T,HV,V]" : "[B,T*n,HV,V]");

  p.gate = gateOfRank(g);
  if (call.preset && call.preset->fixedGate == FixedGate::No && call.preset->gate != p.gate) {
    const bool token = call.preset->gate == GateKind::Token;
    fail(ErrorKind::Range, "g: expected shape %s, got %s", token ? "[B,T,HV]" : "[B,T,HV,K]",
         g.present() ? g.shapeText().c_str() : "none");
  }
  if (p.gate == GateKind::Head) expectShape(call, kG, {p.HV}, "[HV]");
  if (p.gate == GateKind::Token) expectShape(call, kG, {p.B, p.T, p.HV}, "[B,T,HV]");
  if (p.gate == GateKind::Channel) expectShape(call, kG, {p.B, p.T, p.HV, p.K}, "[B,T,HV,K]");
  if (p.update == UpdateRule::Delta)
    expectShape(call, kBeta, {p.B, p.T * p.n, p.HV}, p.n == 1 ? "[B,T,HV]" : "[B,T*n,HV]");
  if (call.input(kInitialState).present()) expectShape(call, kInitialState, {p.B, p.HV, p.K, p.V}, "[B,HV,K,V]");

  p.scale = static_cast<float>(call.number(kScale, 1 / std::sqrt(static_cast<double>(p.K))));
  p.q = q.f32();
  p.k = k.f32();
  p.v = v.f32();
  p.g = g.f32();
  p.beta = call.input(kBeta).f32();
  p.initialState = call.input(kInitialState).f32();
  p.cancel = call.cancel;
  if (call.preset && call.preset->fixedGate != FixedGate::No) {
    p.gate = GateKind::Head;
    if (fixedGate && p.B * p.T > 0) {
      fixedGate->resize(static_cast<size_t>(p.HV));
      fillFixedGate(call, p.HV, fixedGate->data());
      p.g = fixedGate->data();
    }
  }
}

SavedForward::Key savedKey(const Call& call, const RecurrenceProblem& p) {
  return {p.update,
          p.gate,
          call.preset ? call.preset->fixedGate : FixedGate::No,
          call.input(kInitialState).present(),
          p.B,
          p.T,
          p.H,
          p.HV,
          p.K,
          p.V,
          p.n,
          call.integer(kLayer, 0),
          call.integer(kLayers, 0)};
}

}  // namespace rankone
