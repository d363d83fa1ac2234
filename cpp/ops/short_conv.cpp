// Causal depthwise convolution over time, and its gradients.
#include "kernels/short_conv.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kX, kWeight, kBias, kInitialState, kDY, kDFinalState };
enum Option { kActivation, kOutputFinalState };
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
  setOutputLike(call, kY, call.input(kX));
  if (call.flag(kOutputFinalState)) setOutput(call, kFinalState, {p.B, p.D, p.W - 1});
}

void run(const Call& call) {
  const Problem p = bind(call);
  ShortConvArgs a;
  a.x = call.input(kX).f32();
  a.weight = call.input(kWeight).f32();
  a.bias = call.input(kBias).f32();
  a.initialState = call.input(kInitialState).f32();
  a.y = call.outputs[kY].f32();
  a.finalState = call.outputs[kFinalState].f32();
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
  expectSameShape(call, kDY, kX);
  if (call.input(kDFinalState).present()) expectShape(call, kDFinalState, {p.B, p.D, p.W - 1}, "[B,D,W-1]");
  setOutputLike(call, kDX, call.input(kX));
  setOutputLike(call, kDWeight, call.input(kWeight));
  if (call.input(kBias).present()) setOutput(call, kDBias, {p.D});
  if (call.input(kInitialState).present()) setOutputLike(call, kDInitialState, call.input(kInitialState));
}

void runBackward(const Call& call) {
  const Problem p = bind(call);
  ShortConvBackwardArgs a;
  a.x = call.input(kX).f32();
  a.weight = call.input(kWeight).f32();
  a.bias = call.input(kBias).f32();
  a.initialState = call.input(kInitialState).f32();
  a.dY = call.input(kDY).f32();
  a.dFinalState = call.input(kDFinalState).f32();
  a.dX = call.outputs[kDX].f32();
  a.dWeight = call.outputs[kDWeight].f32();
  a.dBias = call.outputs[kDBias].f32();
  a.dInitialState = call.outputs[kDInitialState].f32();
  a.B = batchToRun(p, a.dInitialState);
  a.T = p.T;
  a.D = p.D;
  a.W = p.W;
  a.silu = call.integer(kActivation, 0) == 1;
  a.cancel = call.cancel;
  shortConvBackward(a);
}

constexpr InputSpec kInputs[] = {{"x"}, {"weight"}, {"bias", false}, {"initialState", false}};
constexpr InputSpec kBackwardInputs[] = {
    {"x"}, {"weight"}, {"bias", false}, {"initialState", false}, {"dY"}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {{"activation", OptionKind::Choice, "none|silu"},
                                   {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"activation", OptionKind::Choice, "none|silu"}};
constexpr OutputSpec kOutputs[] = {{"y"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dWeight"}, {"dBias"}, {"dInitialState"}};

}  // namespace

extern const OpSpec shortConvOp, shortConvBackwardOp;
const OpSpec shortConvOp{"shortConv", kInputs, kOptions, kOutputs, plan, run};
const OpSpec shortConvBackwardOp{"shortConvBackward", kBackwardInputs, kBackwardOptions,
                                 kGradients,          planBackward,    runBackward};

}  // namespace rankone
