// HGRN: the elementwise gated scan h_t = e^g_t h_(t-1) + x_t.
#include "kernels/hgrn.h"

#include "ops/gradients.h"
#include "ops/sequences.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum { kX, kG, kInitialState, kCuSeqlens, kStateIndices, kDO = kStateIndices, kDFinalState };
enum { kOutputFinalState, kGradDtype = kOutputFinalState };
enum { kOutO, kOutFinalState };
enum { kOutDX, kOutDG, kOutDInitialState };

#define RANKONE_HGRN_INPUTS                                              \
  {"x", true, kFloats}, {"g", true, kFloats}, {"initialState", false}, { \
    "cuSeqlens", false, kIndices, Access::Read, ""                       \
  }
constexpr InputSpec kInputs[] = {RANKONE_HGRN_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {RANKONE_HGRN_INPUTS, {"dO", true, kFloats}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {{"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dg"}, {"dInitialState"}};

Sequences bind(const Call& call, HgrnProblem& p, bool planning) {
  if (planning) expectRank(call, kX, 3, "[B,T,D]");
  const Tensor& x = call.input(kX);
  p.B = x.shape[0];
  p.T = x.shape[1];
  p.D = x.shape[2];
  const Sequences sequences = sequencesOf(call, kCuSeqlens, p.B, p.T, planning);
  p.N = sequences.N;
  p.cuSeqlens = sequences.starts;
  if (planning) {
    expectSameShape(call, kG, kX);
    expectDType(call, kG, kX, true);
    expectCountable("x", {p.N, p.D});
    if (call.input(kInitialState).present())
      expectShape(call, kInitialState, {p.N, p.D}, p.cuSeqlens ? "[N,D]" : "[B,D]");
  }
  p.x = FloatView(x);
  p.g = FloatView(call.input(kG));
  p.initialState = call.input(kInitialState).f32();
  p.cancel = call.cancel;
  return sequences;
}

HgrnForward bindForward(const Call& call, bool planning) {
  HgrnForward p{};
  const Sequences sequences = bind(call, p, planning);
  const StateMemory state =
      bindState(call, {kInitialState, kStateIndices, kOutFinalState, p.D, 1, 1, "D,1,1"}, sequences, planning);
  p.initialState = state.initial;
  p.finalState = state.final;
  p.stateRows = state.rows;
  p.o = call.outputs[kOutO].data;
  return p;
}

void plan(Call& call) {
  const HgrnForward p = bindForward(call, true);
  setOutputLike(call, kOutO, call.input(kX), call.input(kX).dtype);
  if (!call.flag(kOutputFinalState)) return;
  if (call.state) fail(ErrorKind::Type, "outputFinalState: a call with state advances that state instead");
  setOutput(call, kOutFinalState, {p.N, p.D});
}

void run(const Call& call) {
  const HgrnForward p = bindForward(call, false);
  if (p.N > 0 && p.D > 0) hgrn(p);
}

void planBackward(Call& call) {
  HgrnBackward p{};
  bind(call, p, true);
  expectSameShape(call, kDO, kX);
  expectDType(call, kDO, kX);
  if (call.input(kDFinalState).present()) expectShape(call, kDFinalState, {p.N, p.D}, p.cuSeqlens ? "[N,D]" : "[B,D]");
  for (int i : {kX, kG, kInitialState}) {
    const Tensor& t = call.input(i);
    if (t.present()) setOutputLike(call, i, t, gradientDType(call, kGradDtype, t));
  }
}

void runBackward(const Call& call) {
  HgrnBackward p{};
  bind(call, p, false);
  GradientBuffers gradients(call);
  p.dO = FloatView(call.input(kDO));
  p.dFinalState = call.input(kDFinalState).f32();
  p.dx = gradients.f32(kOutDX);
  p.dg = gradients.f32(kOutDG);
  p.dInitialState = gradients.f32(kOutDInitialState);
  if (p.N > 0 && p.D > 0) hgrnBackward(p);
  gradients.finish();
}

}  // namespace

extern const OpSpec hgrnOp, hgrnBackwardOp;

const OpSpec hgrnOp = {
    .name = "hgrn",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .takesState = true,
};

const OpSpec hgrnBackwardOp = {
    .name = "hgrnBackward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
};

}  // namespace rankone
