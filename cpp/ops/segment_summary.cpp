// What a segment of a sequence does to the state that enters it, S -> M S + N, and the gradients of M and N.
#include "core/workspace.h"
#include "kernels/segments.h"
#include "ops/gradients.h"
#include "ops/segments.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum { kInK, kInV, kInQ, kInG, kInBeta, kInStarts, kInALog, kInDtBias, kDTransition, kDState, kDZ };
enum { kOutTransition, kOutState, kOutZ };
enum { kUpdate, kNumHouseholder, kQkL2norm, kBetaActivation, kLowerBound, kNormalize, kOutputTransition };
enum { kOutDK, kOutDV, kOutDG, kOutDBeta, kOutDALog, kOutDDtBias };
constexpr int kGradDtype = kOutputTransition;

#define RANKONE_SUMMARY_INPUTS {"k", true, kFloats}, {"v", true, kFloats}, {"q", false, kFloats}, RANKONE_SEGMENT_INPUTS
constexpr InputSpec kInputs[] = {RANKONE_SUMMARY_INPUTS};
constexpr InputSpec kBackwardInputs[] = {
    RANKONE_SUMMARY_INPUTS, {"dTransition", false}, {"dState", false}, {"dZ", false}};
constexpr OptionSpec kOptions[] = {
    RANKONE_SEGMENT_OPTIONS, {"normalize", OptionKind::Flag}, {"outputTransition", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {
    RANKONE_SEGMENT_OPTIONS, {"normalize", OptionKind::Flag}, {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"transition"}, {"state"}, {"z"}};
constexpr OutputSpec kGradients[] = {{"dk"}, {"dv"}, {"dg"}, {"dbeta"}, {"dALog"}, {"dDtBias"}};

// The shape of M, with a name for it.
Tensor transitionOf(const RecurrenceProblem& p) {
  Tensor t;
  if (p.update == UpdateRule::Delta)
    t.setShape({p.N, p.HV, p.K, p.K});
  else if (p.gate == GateKind::Channel)
    t.setShape({p.N, p.HV, p.K});
  else
    t.setShape({p.N, p.HV});
  return t;
}

RecurrenceProblem checkedProblem(const Call& call) {
  expectInputs(call);
  for (int input : {kInV, kInQ}) expectDType(call, input, kInK);
  for (int input : {kInG, kInBeta}) expectDType(call, input, kInK, true);
  const RecurrenceProblem p = segmentProblem(recurrenceCallOf(call), true);
  if (p.update == UpdateRule::Delta) {
    expectCountable("k, v", {p.B, p.T, p.n, p.HV, p.K, p.K});
    expectCountable("k, v", {p.N, p.HV, p.K, p.K});
  }
  return p;
}

// The identity, a head at a time.
void fillIdentities(const RecurrenceProblem& p, float* to) {
  const int64_t size = p.K * p.K;
  parallelFor(p.N * p.HV, p.cancel, [&](int64_t head) {
    for (int64_t i = 0; i < size; ++i) to[head * size + i] = i % (p.K + 1) == 0 ? 1.0f : 0.0f;
  });
}

void plan(Call& call) {
  const RecurrenceProblem p = checkedProblem(call);
  const Tensor transition = transitionOf(p);
  if (call.flag(kOutputTransition, true)) setOutput(call, kOutTransition, transition.shape, transition.rank);
  setOutput(call, kOutState, {p.N, p.HV, p.K, p.V});
  if (call.flag(kNormalize)) setOutput(call, kOutZ, {p.N, p.H, p.K});
}

void run(const Call& call) {
  const Call inner = recurrenceCallOf(call);
  RecurrenceForward args{};
  static_cast<RecurrenceProblem&>(args) = segmentProblem(inner, false);
  if (args.N == 0) return;
  args.q = FloatView();
  args.packTokens = args.n > 1 ? 16 : 32;
  args.tokenSteps = -1;
  args.finalState = call.outputs[kOutState].f32();
  recurrenceScan(args);
  if (float* z = call.outputs[kOutZ].f32()) keySums(args, z);
  float* transition = call.outputs[kOutTransition].f32();
  if (!transition) return;
  if (args.update == UpdateRule::Additive) return gateTransitions(args, transition);
  // A column of M is what becomes of a unit vector where nothing is written.
  fillIdentities(args, transition);
  args.v = FloatView();
  args.V = args.K;
  args.initialState = args.finalState = transition;
  recurrenceScan(args);
}

void planBackward(Call& call) {
  const RecurrenceProblem p = checkedProblem(call);
  const Tensor transition = transitionOf(p);
  const Tensor& dTransition = call.input(kDTransition);
  if (dTransition.present() && !dTransition.sameShape(transition))
    fail(ErrorKind::Range, "dTransition: expected shape %s, that of transition, got %s", transition.shapeText().c_str(),
         dTransition.shapeText().c_str());
  const char* sequences = p.cuSeqlens ? "[N,HV,K,V]" : "[B,HV,K,V]";
  if (call.input(kDState).present()) expectShape(call, kDState, {p.N, p.HV, p.K, p.V}, sequences);
  if (call.input(kDZ).present()) {
    if (!call.flag(kNormalize)) fail(ErrorKind::Type, "dZ: expected none without normalize, got a tensor");
    expectShape(call, kDZ, {p.N, p.H, p.K}, p.cuSeqlens ? "[N,H,K]" : "[B,H,K]");
  }
  const auto like = [&](int output, int input) {
    const Tensor& t = call.input(input);
    if (t.present()) setOutputLike(call, output, t, gradientDType(call, kGradDtype, t));
  };
  like(kOutDK, kInK);
  like(kOutDV, kInV);
  like(kOutDG, kInG);
  like(kOutDBeta, kInBeta);
  like(kOutDALog, kInALog);
  like(kOutDDtBias, kInDtBias);
}

void add(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count && to; ++i) to[i] += from[i];
}

// Adds what the gradient of a delta cell's transition makes of the inputs: the backward of its own scan, from the
// identity and without values.
void addTransitionGradients(const RecurrenceBackward& outer, const float* dTransition) {
  RecurrenceBackward a = outer;
  const int64_t steps = a.B * a.T * a.n, keys = steps * a.H * a.K, strengths = steps * a.HV,
                gates = a.gate == GateKind::None   ? 0
                        : a.gate == GateKind::Head ? a.HV
                                                   : a.B * a.T * a.HV * (a.gate == GateKind::Channel ? a.K : 1);
  AlignedBuffer identities(static_cast<size_t>(a.N * a.HV * a.K * a.K) * sizeof(float)),
      own(static_cast<size_t>(keys + steps * a.HV * a.K + strengths + gates) * sizeof(float));
  fillIdentities(a, identities.f32());
  a.v = FloatView();
  a.V = a.K;
  a.initialState = identities.f32();
  a.dFinalState = dTransition;
  a.dk = own.f32();
  a.dv = a.dk + keys;
  a.dbeta = a.dv + steps * a.HV * a.K;
  a.dg = outer.dg ? a.dbeta + strengths : nullptr;
  recurrenceBackward(a);
  add(outer.dk, a.dk, keys);
  add(outer.dbeta, a.dbeta, strengths);
  add(outer.dg, a.dg, gates);
}

// dk += dz, to every key of the sequence.
void addSumGradients(const RecurrenceBackward& a, const float* dz) {
  parallelFor(a.N * a.H, a.cancel, [&](int64_t task) {
    const int64_t sequence = task / a.H, h = task % a.H;
    for (int64_t t = a.start(sequence); t < a.start(sequence) + a.length(sequence); ++t)
      add(a.dk + (t * a.H + h) * a.K, dz + task * a.K, a.K);
  });
}

void runBackward(const Call& call) {
  const Call inner = recurrenceCallOf(call);
  RecurrenceBackward args{};
  static_cast<RecurrenceProblem&>(args) = segmentProblem(inner, false);
  GradientBuffers gradients(call);
  // Outputs and their queries take no part.
  AlignedBuffer queries(static_cast<size_t>(args.B * args.T * args.H * args.K) * sizeof(float));
  args.q = FloatView();
  args.dq = queries.f32();
  args.dk = gradients.f32(kOutDK);
  args.dv = gradients.f32(kOutDV);
  args.dg = gradients.f32(kOutDG);
  args.dbeta = gradients.f32(kOutDBeta);
  args.dALog = gradients.f32(kOutDALog);
  args.dDtBias = gradients.f32(kOutDDtBias);
  args.dFinalState = call.input(kDState).f32();
  recurrenceBackward(args);
  if (const float* dTransition = call.input(kDTransition).f32()) {
    if (args.update == UpdateRule::Delta)
      addTransitionGradients(args, dTransition);
    else
      gateTransitionGradients(args, dTransition, args.dg);
  }
  if (const float* dz = call.input(kDZ).f32()) addSumGradients(args, dz);
  recurrenceActivationGradients(args);
  gradients.finish();
}

}  // namespace

extern const OpSpec segmentSummaryOp, segmentSummaryBackwardOp;

const OpSpec segmentSummaryOp = {
    .name = "segmentSummary",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
};

const OpSpec segmentSummaryBackwardOp = {
    .name = "segmentSummaryBackward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
};

}  // namespace rankone
