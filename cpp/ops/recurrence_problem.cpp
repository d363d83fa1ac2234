#include "ops/recurrence_problem.h"

#include <cmath>

#include "ops/sequences.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

using namespace recurrence_inputs;
using namespace recurrence_options;

constexpr int64_t kMaxHouseholder = 8;

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

// Of a key or value, the last dimension.
void checkWidth(const Call& call, int input, int64_t width) {
  const int64_t most = maxStateDim(call);
  if (width >= 1 && width <= most) return;
  const std::string where = call.device ? " on " + call.device->name() : "";
  fail(ErrorKind::Range, "%s: expected a size from 1 to %lld%s, got shape %s", call.spec->inputs[input].name,
       static_cast<long long>(most), where.c_str(), call.input(input).shapeText().c_str());
}

void checkOptions(const Call& call) {
  expectFinite(call, kScale);
  if (call.options[kChunkSize].given) {
    const double c = call.options[kChunkSize].value;
    if (c != 16 && c != 32 && c != 64 && c != 128)
      fail(ErrorKind::Range, "chunkSize: expected 16, 32, 64 or 128, got %g", c);
  }
  expectInteger(call, kNumHouseholder, 1, kMaxHouseholder);
  expectCompute(call, kCompute);
  if (call.preset && call.preset->fixedGate == FixedGate::Lightning) {
    if (!call.options[kLayer].given || !call.options[kLayers].given)
      fail(ErrorKind::Type, "layer, layers: expected both, the layer's index and how many there are");
    expectInteger(call, kLayers, 1, 1 << 20);
    expectInteger(call, kLayer, 0, call.integer(kLayers, 1));
  }
}

// Packed sequences: where each begins, counted in tokens.
void bindSequences(const Call& call, RecurrenceProblem& p, bool planning) {
  const Sequences sequences = sequencesOf(call, kCuSeqlens, p.B, p.T, planning);
  p.N = sequences.N;
  p.cuSeqlens = sequences.starts;
}

void checkGateActivation(const Call& call, const RecurrenceProblem& p) {
  const Tensor& bias = call.input(kDtBias);
  const OptionValue& bound = call.options[kLowerBound];
  if (!call.input(kG).present()) fail(ErrorKind::Type, "gate: expected g beside it, got none");
  if (p.gate != GateKind::Token && p.gate != GateKind::Channel)
    fail(ErrorKind::Range, "gate: expected g of shape [B,T,HV] or [B,T,HV,K] beside it, got %s",
         call.input(kG).shapeText().c_str());
  expectShape(call, kALog, {p.HV}, "[HV]");
  if (bias.present()) {
    if (p.gate == GateKind::Channel)
      expectShape(call, kDtBias, {p.HV, p.K}, "[HV,K]");
    else
      expectShape(call, kDtBias, {p.HV}, "[HV]");
  }
  if (bound.given && !(bound.value >= -5 && bound.value < 0))
    fail(ErrorKind::Range, "gate.lowerBound: expected a number from -5 to below 0, got %g", bound.value);
}

void bindGateActivation(const Call& call, RecurrenceProblem& p, bool planning) {
  const Tensor &aLog = call.input(kALog), &bias = call.input(kDtBias);
  const OptionValue& bound = call.options[kLowerBound];
  if (!aLog.present()) {
    if (bias.present() || bound.given) fail(ErrorKind::Type, "gate.aLog: expected a tensor [HV], got none");
    return;
  }
  if (planning) checkGateActivation(call, p);
  p.gateActivation = {aLog.f32(), bias.f32(), static_cast<float>(bound.value), bound.given};
}

void checkNormalize(const Call& call, const RecurrenceProblem& p) {
  const bool normalize = call.flag(kNormalize);
  if (call.input(kInitialZ).present() && !normalize)
    fail(ErrorKind::Type, "initialZ: expected none without normalize, got a tensor");
  if (!normalize) return;
  if (p.update != UpdateRule::Additive || p.gate != GateKind::None)
    fail(ErrorKind::Type, "normalize: expected the additive update without a gate, got %s",
         p.update == UpdateRule::Delta ? "the delta update" : "a gate");
  expectCountable("initialZ", {p.N, p.H, p.K});
  if (call.input(kInitialZ).present())
    expectShape(call, kInitialZ, {p.N, p.H, p.K}, p.cuSeqlens ? "[N,H,K]" : "[B,H,K]");
}

void checkSizes(const Call& call, const RecurrenceProblem& p) {
  const Tensor &q = call.input(kQ), &v = call.input(kV);
  checkWidth(call, kQ, p.K);
  checkWidth(call, kV, p.V);
  if (p.H < 1) fail(ErrorKind::Range, "q: expected at least one head, got shape %s", q.shapeText().c_str());
  if (p.HV < 1 || p.HV % p.H != 0)
    fail(ErrorKind::Range, "v: expected HV to be a multiple of H = %lld, got shape %s", static_cast<long long>(p.H),
         v.shapeText().c_str());
}

void checkShapes(const Call& call, const RecurrenceProblem& p) {
  if (p.n > 1 && p.update == UpdateRule::Additive)
    fail(ErrorKind::Range, "numHouseholder: the additive update takes 1, got %lld", static_cast<long long>(p.n));
  // A size of zero makes a tensor empty and leaves the others free: what is made of them must still be countable.
  expectCountable("q, v", {p.B, p.T, p.n, p.H, p.K});
  expectCountable("q, v", {p.B, p.T, p.n, p.HV, p.V, p.K});
  expectCountable("q, v", {p.N, p.HV, p.K, p.V});
  const char* pattern = p.n == 1 ? "[B,T,H,K]" : "[B,T*n,H,K]";
  expectShape(call, kK, {p.B, p.T * p.n, p.H, p.K}, pattern);
  expectShape(call, kV, {p.B, p.T * p.n, p.HV, p.V}, p.n == 1 ? "[B,T,HV,V]" : "[B,T*n,HV,V]");
  if (call.preset && call.preset->fixedGate == FixedGate::No && call.preset->gate != p.gate) {
    const bool token = call.preset->gate == GateKind::Token;
    const Tensor& g = call.input(kG);
    fail(ErrorKind::Range, "g: expected shape %s, got %s", token ? "[B,T,HV]" : "[B,T,HV,K]",
         g.present() ? g.shapeText().c_str() : "none");
  }
  if (p.gate == GateKind::Head) expectShape(call, kG, {p.HV}, "[HV]");
  if (p.gate == GateKind::Token) expectShape(call, kG, {p.B, p.T, p.HV}, "[B,T,HV]");
  if (p.gate == GateKind::Channel) expectShape(call, kG, {p.B, p.T, p.HV, p.K}, "[B,T,HV,K]");
  if (p.update == UpdateRule::Delta)
    expectShape(call, kBeta, {p.B, p.T * p.n, p.HV}, p.n == 1 ? "[B,T,HV]" : "[B,T*n,HV]");
  if (call.input(kInitialState).present())
    expectShape(call, kInitialState, {p.N, p.HV, p.K, p.V}, p.cuSeqlens ? "[N,HV,K,V]" : "[B,HV,K,V]");
  for (int input : {kK, kV}) expectDType(call, input, kQ);
  for (int input : {kG, kBeta}) expectDType(call, input, kQ, true);
}

}  // namespace

const char* sequencesName(const RecurrenceProblem& p) { return p.cuSeqlens ? "N" : "B"; }

void bindProblem(const Call& call, RecurrenceProblem& p, std::vector<float>* fixedGate) {
  const bool planning = fixedGate == nullptr;
  const Tensor &q = call.input(kQ), &k = call.input(kK), &v = call.input(kV), &g = call.input(kG);
  if (planning) {
    checkOptions(call);
    expectRank(call, kQ, 4, "[B,T,H,K]");
    expectRank(call, kV, 4, "[B,T*n,HV,V]");
  }
  p.n = call.integer(kNumHouseholder, 1);
  p.B = q.shape[0];
  p.T = q.shape[1];
  p.H = q.shape[2];
  p.K = q.shape[3];
  p.HV = v.shape[2];
  p.V = v.shape[3];
  bindSequences(call, p, planning);
  if (planning) checkSizes(call, p);
  p.update = updateRule(call);
  p.gate = gateOfRank(g);
  if (planning) checkShapes(call, p);
  bindGateActivation(call, p, planning);
  if (planning) checkNormalize(call, p);

  p.scale = static_cast<float>(call.number(kScale, 1 / std::sqrt(static_cast<double>(p.K))));
  p.q = FloatView(q);
  p.k = FloatView(k);
  p.v = FloatView(v);
  p.valueScale = call.valueScale;
  p.keysFromGates = call.keysFromGates;
  p.g = FloatView(g);
  p.beta = FloatView(call.input(kBeta));
  p.qkL2norm = call.flag(kQkL2norm);
  p.betaActivation = static_cast<BetaActivation>(call.integer(kBetaActivation, 0));
  if (p.betaActivation != BetaActivation::None && p.update != UpdateRule::Delta)
    fail(ErrorKind::Type, "betaActivation: expected 'none' without beta");
  p.initialState = call.input(kInitialState).f32();
  p.cancel = call.cancel;
  if (call.preset && call.preset->fixedGate != FixedGate::No) {
    p.gate = GateKind::Head;
    if (fixedGate && p.B * p.T > 0) {
      fixedGate->resize(static_cast<size_t>(p.HV));
      fillFixedGate(call, p.HV, fixedGate->data());
      p.g = FloatView(fixedGate->data());
    }
  }
}

SavedForward::Key savedKey(const Call& call, const RecurrenceProblem& p) {
  std::vector<int64_t> starts;
  for (int64_t i = 0; p.cuSeqlens && i <= p.N; ++i) starts.push_back(p.cuSeqlens[i]);
  return {p.update,
          p.gate,
          call.preset ? call.preset->fixedGate : FixedGate::No,
          p.betaActivation,
          static_cast<bool>(p.gateActivation),
          p.gateActivation.bounded,
          p.qkL2norm,
          call.input(kInitialState).present(),
          std::move(starts),
          p.B,
          p.T,
          p.H,
          p.HV,
          p.K,
          p.V,
          p.n,
          call.integer(kLayer, 0),
          call.integer(kLayers, 0),
          call.device ? static_cast<int64_t>(call.input(kQ).dtype) : 0,
          call.device && call.integer(kMode, 0) == RANKONE_MODE_RECURRENT,
          call.device ? call.integer(kCompute, -1) : 0};
}

}  // namespace rankone
