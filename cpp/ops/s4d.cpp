// S4D: a diagonal complex state space per channel, as a recurrence or as a long convolution.
#include "kernels/s4d.h"

#include "ops/gradients.h"
#include "ops/sequences.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum {
  kX,
  kLogDt,
  kLogAReal,
  kAImag,
  kC,
  kD,
  kInitialState,
  kCuSeqlens,
  kStateIndices,
  kDY = kStateIndices,
  kDFinalState
};
enum { kDiscretisation, kMode, kOutputFinalState, kGradDtype = kOutputFinalState };
enum { kOutY, kOutFinalState };

#define RANKONE_S4D_INPUTS                                                                                  \
  {"x", true, kFloats}, {"logDt"}, {"logAReal"}, {"AImag"}, {"C"}, {"D", false}, {"initialState", false}, { \
    "cuSeqlens", false, kIndices, Access::Read, ""                                                          \
  }
#define RANKONE_S4D_OPTIONS \
  {"discretisation", OptionKind::Choice, "zoh|bilinear"}, { "mode", OptionKind::Choice, "recurrent|convolution" }
constexpr InputSpec kInputs[] = {RANKONE_S4D_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {RANKONE_S4D_INPUTS, {"dY", true, kFloats}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {RANKONE_S4D_OPTIONS, {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {RANKONE_S4D_OPTIONS, {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dLogDt"}, {"dLogAReal"}, {"dAImag"}, {"dC"}, {"dD"}, {"dInitialState"}};

constexpr int64_t kMostConvolved = int64_t{1} << 24;

void refuseConvolution(const Call& call, const char* what) {
  fail(ErrorKind::Type,
       "mode: expected 'recurrent' with %s, got 'convolution', which starts from zeros and ends in none", what);
}

void check(const Call& call, const S4dProblem& p) {
  expectShape(call, kLogDt, {p.D}, "[D]");
  expectRank(call, kLogAReal, 2, "[D,N]");
  expectShape(call, kLogAReal, {p.D, p.M}, "[D,N]");
  expectShape(call, kAImag, {p.D, p.M}, "[D,N]");
  expectShape(call, kC, {p.D, p.M, 2}, "[D,N,2]");
  if (call.input(kD).present()) expectShape(call, kD, {p.D}, "[D]");
  expectCountable("x", {p.N, p.D, p.M, 16});
  if (call.input(kInitialState).present())
    expectShape(call, kInitialState, {p.N, p.D, p.M, 2}, p.cuSeqlens ? "[sequences,D,N,2]" : "[B,D,N,2]");
  if (!p.convolve) return;
  if (call.input(kInitialState).present()) refuseConvolution(call, "initialState");
  if (call.state) refuseConvolution(call, "state");
  if (p.cuSeqlens) refuseConvolution(call, "cuSeqlens");
  if (p.T > kMostConvolved)
    fail(ErrorKind::Range, "mode: expected 'recurrent' beyond T = %lld, got T = %lld",
         static_cast<long long>(kMostConvolved), static_cast<long long>(p.T));
}

Sequences bind(const Call& call, S4dProblem& p, bool planning) {
  if (planning) {
    expectRank(call, kX, 3, "[B,T,D]");
    expectRank(call, kLogAReal, 2, "[D,N]");
  }
  const Tensor& x = call.input(kX);
  p.B = x.shape[0];
  p.T = x.shape[1];
  p.D = x.shape[2];
  p.M = call.input(kLogAReal).shape[1];
  const Sequences sequences = sequencesOf(call, kCuSeqlens, p.B, p.T, planning);
  p.N = sequences.N;
  p.cuSeqlens = sequences.starts;
  p.bilinear = call.integer(kDiscretisation, 0) == 1;
  p.convolve = call.integer(kMode, 0) == 1;
  if (planning) check(call, p);
  p.x = x.data;
  p.dtype = x.dtype;
  p.logDt = call.input(kLogDt).f32();
  p.logAReal = call.input(kLogAReal).f32();
  p.AImag = call.input(kAImag).f32();
  p.C = call.input(kC).f32();
  p.skip = call.input(kD).f32();
  p.initialState = call.input(kInitialState).f32();
  p.cancel = call.cancel;
  return sequences;
}

S4dForward bindForward(const Call& call, bool planning) {
  S4dForward p{};
  const Sequences sequences = bind(call, p, planning);
  const StateMemory state =
      bindState(call, {kInitialState, kStateIndices, kOutFinalState, p.D, p.M, 2, "D,N,2"}, sequences, planning);
  p.initialState = state.initial;
  p.finalState = state.final;
  p.stateRows = state.rows;
  p.y = call.outputs[kOutY].data;
  return p;
}

void plan(Call& call) {
  const S4dForward p = bindForward(call, true);
  setOutputLike(call, kOutY, call.input(kX), call.input(kX).dtype);
  if (!call.flag(kOutputFinalState)) return;
  if (call.state) fail(ErrorKind::Type, "outputFinalState: a call with state advances that state instead");
  if (p.convolve) refuseConvolution(call, "outputFinalState");
  setOutput(call, kOutFinalState, {p.N, p.D, p.M, 2});
}

void run(const Call& call) {
  const S4dForward p = bindForward(call, false);
  if (p.N > 0 && p.D > 0) s4d(p);
}

void planBackward(Call& call) {
  S4dBackward p{};
  bind(call, p, true);
  expectSameShape(call, kDY, kX);
  expectDType(call, kDY, kX);
  if (call.input(kDFinalState).present()) {
    expectShape(call, kDFinalState, {p.N, p.D, p.M, 2}, p.cuSeqlens ? "[sequences,D,N,2]" : "[B,D,N,2]");
    if (p.convolve) refuseConvolution(call, "dFinalState");
  }
  for (int i = kX; i <= kInitialState; ++i) {
    const Tensor& t = call.input(i);
    if (t.present()) setOutputLike(call, i, t, gradientDType(call, kGradDtype, t));
  }
}

void runBackward(const Call& call) {
  S4dBackward p{};
  bind(call, p, false);
  GradientBuffers gradients(call);
  p.dY = call.input(kDY).data;
  p.dFinalState = call.input(kDFinalState).f32();
  p.dx = gradients.f32(kX);
  p.dLogDt = gradients.f32(kLogDt);
  p.dLogAReal = gradients.f32(kLogAReal);
  p.dAImag = gradients.f32(kAImag);
  p.dC = gradients.f32(kC);
  p.dSkip = gradients.f32(kD);
  p.dInitialState = gradients.f32(kInitialState);
  if (p.D > 0) s4dBackward(p);
  gradients.finish();
}

}  // namespace

extern const OpSpec s4dOp, s4dBackwardOp;

const OpSpec s4dOp = {
    .name = "s4d",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .takesState = true,
};

const OpSpec s4dBackwardOp = {
    .name = "s4dBackward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
};

}  // namespace rankone
