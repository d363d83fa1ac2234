// TTT-Linear: the state is a linear model that learns from every mini-batch of tokens.
#include "kernels/ttt_linear.h"

#include "ops/gradients.h"
#include "ops/sequences.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum { kQ, kK, kV, kEta, kLnWeight, kLnBias, kW, kB, kCuSeqlens, kDO, kDFinalW, kDFinalB };
enum { kMiniBatch, kEps, kOutputFinalState, kGradDtype = kOutputFinalState };
enum { kOutO, kOutFinalW, kOutFinalB };

#define RANKONE_TTT_INPUTS                                                                                            \
  {"q", true, kFloats}, {"k", true, kFloats}, {"v", true, kFloats}, {"eta", true, kFloats}, {"lnWeight"}, {"lnBias"}, \
      {"W"}, {"b"}, {                                                                                                 \
    "cuSeqlens", false, kIndices, Access::Read, ""                                                                    \
  }
#define RANKONE_TTT_OPTIONS \
  {"miniBatch", OptionKind::Integer}, { "eps", OptionKind::Number }
constexpr InputSpec kInputs[] = {RANKONE_TTT_INPUTS};
constexpr InputSpec kBackwardInputs[] = {
    RANKONE_TTT_INPUTS, {"dO", true, kFloats}, {"dFinalW", false}, {"dFinalB", false}};
constexpr OptionSpec kOptions[] = {RANKONE_TTT_OPTIONS, {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {RANKONE_TTT_OPTIONS, {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"finalW"}, {"finalB"}};
constexpr OutputSpec kGradients[] = {{"dq"}, {"dk"}, {"dv"}, {"dEta"}, {"dLnWeight"}, {"dLnBias"}, {"dW"}, {"db"}};

constexpr int64_t kMaxWidth = 512, kMostInBatch = 64;

void check(const Call& call, const TttProblem& p) {
  expectInteger(call, kMiniBatch, 1, kMostInBatch);
  expectNotNegative(call, kEps);
  if (p.D < 1 || p.D > kMaxWidth)
    fail(ErrorKind::Range, "q: expected a size from 1 to %lld, got shape %s", static_cast<long long>(kMaxWidth),
         call.input(kQ).shapeText().c_str());
  if (p.H < 1)
    fail(ErrorKind::Range, "q: expected at least one head, got shape %s", call.input(kQ).shapeText().c_str());
  expectCountable("q", {p.B, p.T, p.H, p.D, p.D});
  expectCountable("q", {p.N, p.H, p.D, p.D});
  for (int input : {int{kK}, int{kV}}) {
    expectSameShape(call, input, kQ);
    expectDType(call, input, kQ);
  }
  expectShape(call, kEta, {p.B, p.T, p.H}, "[B,T,H]");
  expectDType(call, kEta, kQ, true);
  expectShape(call, kLnWeight, {p.H, p.D}, "[H,D]");
  expectShape(call, kLnBias, {p.H, p.D}, "[H,D]");
  if (p.ownStart) {
    expectShape(call, kW, {p.N, p.H, p.D, p.D}, p.cuSeqlens ? "[N,H,D,D]" : "[B,H,D,D]");
    expectShape(call, kB, {p.N, p.H, p.D}, p.cuSeqlens ? "[N,H,D]" : "[B,H,D]");
  } else {
    expectShape(call, kW, {p.H, p.D, p.D}, "[H,D,D] or one for every sequence, [N,H,D,D]");
    expectShape(call, kB, {p.H, p.D}, "[H,D]");
  }
}

void bind(const Call& call, TttProblem& p, bool planning) {
  if (planning) expectRank(call, kQ, 4, "[B,T,H,D]");
  const Tensor& q = call.input(kQ);
  p.B = q.shape[0];
  p.T = q.shape[1];
  p.H = q.shape[2];
  p.D = q.shape[3];
  const Sequences sequences = sequencesOf(call, kCuSeqlens, p.B, p.T, planning);
  p.N = sequences.N;
  p.cuSeqlens = sequences.starts;
  p.ownStart = call.input(kW).rank == 4;
  if (planning) check(call, p);
  p.C = call.integer(kMiniBatch, 16);
  p.eps = static_cast<float>(call.number(kEps, 1e-6));
  p.q = FloatView(q);
  p.k = FloatView(call.input(kK));
  p.v = FloatView(call.input(kV));
  p.eta = FloatView(call.input(kEta));
  p.gamma = call.input(kLnWeight).f32();
  p.beta = call.input(kLnBias).f32();
  p.W = call.input(kW).f32();
  p.b = call.input(kB).f32();
  p.cancel = call.cancel;
}

void plan(Call& call) {
  TttForward p{};
  bind(call, p, true);
  setOutputLike(call, kOutO, call.input(kQ), call.input(kQ).dtype);
  if (!call.flag(kOutputFinalState)) return;
  setOutput(call, kOutFinalW, {p.N, p.H, p.D, p.D});
  setOutput(call, kOutFinalB, {p.N, p.H, p.D});
}

void run(const Call& call) {
  TttForward p{};
  bind(call, p, false);
  p.o = call.outputs[kOutO].data;
  p.oDType = call.outputs[kOutO].dtype;
  p.finalW = call.outputs[kOutFinalW].f32();
  p.finalB = call.outputs[kOutFinalB].f32();
  if (p.N > 0) tttLinear(p);
}

void planBackward(Call& call) {
  TttBackward p{};
  bind(call, p, true);
  expectSameShape(call, kDO, kQ);
  expectDType(call, kDO, kQ);
  if (call.input(kDFinalW).present()) expectShape(call, kDFinalW, {p.N, p.H, p.D, p.D}, "[N,H,D,D]");
  if (call.input(kDFinalB).present()) expectShape(call, kDFinalB, {p.N, p.H, p.D}, "[N,H,D]");
  for (int i = kQ; i <= kB; ++i) setOutputLike(call, i, call.input(i), gradientDType(call, kGradDtype, call.input(i)));
}

void runBackward(const Call& call) {
  TttBackward p{};
  bind(call, p, false);
  GradientBuffers gradients(call);
  p.dO = FloatView(call.input(kDO));
  p.dFinalW = call.input(kDFinalW).f32();
  p.dFinalB = call.input(kDFinalB).f32();
  float** to[] = {&p.dq, &p.dk, &p.dv, &p.dEta, &p.dGamma, &p.dBeta, &p.dW, &p.db};
  for (int i = kQ; i <= kB; ++i) *to[i] = gradients.f32(i);
  tttLinearBackward(p);
  gradients.finish();
}

}  // namespace

extern const OpSpec tttLinearOp, tttLinearBackwardOp;

const OpSpec tttLinearOp = {
    .name = "tttLinear",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
};

const OpSpec tttLinearBackwardOp = {
    .name = "tttLinearBackward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
};

}  // namespace rankone
