// Causal depthwise convolution over time, and its gradients.
#include "kernels/short_conv.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kX, kWeight, kBias, kInitialState, kDY, kDFinalState };
enum Option { kActivation, kOutputFinalState };
enum BackwardOption { kGradDtype = 1 };
enum Output { kY, kFinalState };
enum Gradient { kDX, kDWeight, kDBias, kDInitialState };

struct Problem {
  int64_t B, T, D, W;
};

Problem bind(const Call& call) {
  expectRank(call, kX, 3, "[B,T,D]");
  expectRank(call, kWeight, 2, "[D,W]");
  const Tensor &x = call.input(kX), &weight = call.input(kWeight);
  const Problem p{x.shape[0], x.shape[1], x.shape[2], weight.shape[1]};
  expectShape(call, kWeight, {p.D, p.W}, "[D,W]");
  if (p.W < 1 || p.W > kMaxConvWidth)
    fail(ErrorKind::Range, "weight: expected a width W from 1 to %lld, got %s", static_cast<long long>(kMaxConvWidth),
         weight.shapeText().c_str());
  if (call.input(kBias).present()) expectShape(call, kBias, {p.D}, "[D]");
  for (int parameter : {kWeight, kBias}) expectDType(call, parameter, kX, true);
  if (call.input(kInitialState).present()) expectShape(call, kInitialState, {p.B, p.D, p.W - 1}, "[B,D,W-1]");
  return p;
}

// Without tokens and without a state there is nothing to do for a batch row, however many the shape names.
int64_t batchToRun(const Problem& p, const float* state) {
  return p.D == 0 || (p.T == 0 && (p.W == 1 || !state)) ? 0 : p.B;
}

void plan(Call& call) {
  expectInputs(call);
  const Problem p = bind(call);
  setOutputLike(call, kY, call.input(kX), call.input(kX).dtype);
  if (call.flag(kOutputFinalState)) setOutput(call, kFinalState, {p.B, p.D, p.W - 1});
}

void run(const Call& call) {
  const Problem p = bind(call);
  ShortConvArgs a;
  a.x = call.input(kX).data;
  a.weight = call.input(kWeight).data;
  a.bias = call.input(kBias).data;
  a.initialState = call.input(kInitialState).f32();
  a.y = call.outputs[kY].data;
  a.finalState = call.outputs[kFinalState].f32();
  a.dtype = call.input(kX).dtype;
  a.weightDType = call.input(kWeight).dtype;
  a.biasDType = call.input(kBias).dtype;
  a.B = batchToRun(p, a.finalState);
  a.T = p.T;
  a.D = p.D;
  a.W = p.W;
  a.silu = call.integer(kActivation, 0) == 1;
  a.cancel = call.cancel;
  shortConv(a);
}

void planBackward(Call& call) {
  expectInputs(call);
  const Problem p = bind(call);
  expectDType(call, kDY, kX);
  expectSameShape(call, kDY, kX);
  if (call.input(kDFinalState).present()) expectShape(call, kDFinalState, {p.B, p.D, p.W - 1}, "[B,D,W-1]");
  const auto setGradient = [&](int gradient, const Tensor& of) {
    setOutputLike(call, gradient, of, gradientDType(call, kGradDtype, of));
  };
  setGradient(kDX, call.input(kX));
  setGradient(kDWeight, call.input(kWeight));
  if (call.input(kBias).present()) setGradient(kDBias, call.input(kBias));
  if (call.input(kInitialState).present()) setOutputLike(call, kDInitialState, call.input(kInitialState));
}

void runBackward(const Call& call) {
  const Problem p = bind(call);
  ShortConvBackwardArgs a;
  a.x = call.input(kX).data;
  a.weight = call.input(kWeight).data;
  a.bias = call.input(kBias).data;
  a.initialState = call.input(kInitialState).f32();
  a.dY = call.input(kDY).data;
  a.dFinalState = call.input(kDFinalState).f32();
  a.dX = call.outputs[kDX].data;
  a.dWeight = call.outputs[kDWeight].data;
  a.dBias = call.outputs[kDBias].data;
  a.dInitialState = call.outputs[kDInitialState].f32();
  a.dtype = call.input(kX).dtype;
  a.weightDType = call.input(kWeight).dtype;
  a.biasDType = call.input(kBias).dtype;
  a.gradDType = call.outputs[kDX].dtype;
  a.dWeightDType = call.outputs[kDWeight].dtype;
  a.dBiasDType = call.outputs[kDBias].dtype;
  a.B = batchToRun(p, a.dInitialState);
  a.T = p.T;
  a.D = p.D;
  a.W = p.W;
  a.silu = call.integer(kActivation, 0) == 1;
  a.cancel = call.cancel;
  shortConvBackward(a);
}

constexpr InputSpec kInputs[] = {
    {"x", true, kFloats}, {"weight", true, kFloats}, {"bias", false, kFloats}, {"initialState", false}};
constexpr InputSpec kBackwardInputs[] = {{"x", true, kFloats},    {"weight", true, kFloats}, {"bias", false, kFloats},
                                         {"initialState", false}, {"dY", true, kFloats},     {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {{"activation", OptionKind::Choice, "none|silu"},
                                   {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"activation", OptionKind::Choice, "none|silu"},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dWeight"}, {"dBias"}, {"dInitialState"}};

}  // namespace

extern const OpSpec shortConvOp, shortConvBackwardOp;
const OpSpec shortConvOp{"shortConv", kInputs, kOptions, kOutputs, plan, run};
const OpSpec shortConvBackwardOp{"shortConvBackward", kBackwardInputs, kBackwardOptions,
                                 kGradients,          planBackward,    runBackward};

}  // namespace rankone
