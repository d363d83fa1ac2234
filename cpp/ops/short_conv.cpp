// Causal depthwise convolution over time, and its gradients.
#include "kernels/short_conv.h"

#include <vector>

#include "ops/op.h"
#include "ops/shapes.h"
#include "ops/state.h"

namespace rankone {
namespace {

enum Input { kX, kWeight, kBias, kInitialState, kDY, kDFinalState };
// Where the indices stand: of a forward, of a backward.
enum ForwardInput { kCuSeqlens = kInitialState + 1, kStateIndices };
enum BackwardInput { kBackwardCuSeqlens = kDFinalState + 1 };
enum Option { kActivation, kOutputFinalState };
enum BackwardOption { kGradDtype = 1 };
enum Output { kY, kFinalState };
enum Gradient { kDX, kDWeight, kDBias, kDInitialState };

struct Problem {
  int64_t B, T, D, W, N;
  std::vector<int64_t> table;  // of packed sequences: [N+1] where each begins, [N+1] its first block
};

const char* sequencesName(const Problem& p) { return p.table.empty() ? "[B,D,W-1]" : "[N,D,W-1]"; }

Problem bind(const Call& call, int cuSeqlens) {
  expectRank(call, kX, 3, "[B,T,D]");
  expectRank(call, kWeight, 2, "[D,W]");
  const Tensor &x = call.input(kX), &weight = call.input(kWeight);
  Problem p{x.shape[0], x.shape[1], x.shape[2], weight.shape[1], 0, {}};
  expectShape(call, kWeight, {p.D, p.W}, "[D,W]");
  if (p.W < 1 || p.W > kMaxConvWidth)
    fail(ErrorKind::Range, "weight: expected a width W from 1 to %lld, got %s", static_cast<long long>(kMaxConvWidth),
         weight.shapeText().c_str());
  if (call.input(kBias).present()) expectShape(call, kBias, {p.D}, "[D]");
  for (int parameter : {kWeight, kBias}) expectDType(call, parameter, kX, true);
  p.N = expectStarts(call, cuSeqlens, p.B, p.T);
  if (call.input(cuSeqlens).present()) {
    const IndexView starts(call.input(cuSeqlens));
    p.table.resize(static_cast<size_t>(2 * (p.N + 1)));
    int64_t *begin = p.table.data(), *blocks = begin + p.N + 1;
    begin[0] = blocks[0] = 0;
    for (int64_t n = 0; n < p.N; ++n) {
      begin[n + 1] = starts[n + 1];
      blocks[n + 1] = blocks[n] + ConvSequences::blocksOf(starts[n + 1] - starts[n]);
    }
  }
  if (call.input(kInitialState).present()) expectShape(call, kInitialState, {p.N, p.D, p.W - 1}, sequencesName(p));
  return p;
}

// Without tokens and without a state there is nothing to do for a sequence, however many the shape names.
ConvSequences sequencesToRun(const Problem& p, const float* state) {
  ConvSequences s;
  s.N = p.D == 0 || (p.T == 0 && (p.W == 1 || !state)) ? 0 : p.N;
  s.T = p.T;
  if (!p.table.empty()) {
    s.starts = p.table.data();
    s.blocks = s.starts + p.N + 1;
  }
  return s;
}

// A pool of states is [slots,HV,K,W-1], and HV*K = D: its memory is that of [slots,D,W-1].
void checkState(const Call& call, const Problem& p) {
  const bool pool = call.input(kStateIndices).present();
  if (!call.state) {
    if (pool) fail(ErrorKind::Type, "stateIndices: expected a state beside them, got none");
    return;
  }
  if (call.input(kInitialState).present())
    fail(ErrorKind::Type, "initialState: expected none beside state, got a tensor");
  if (call.flag(kOutputFinalState))
    fail(ErrorKind::Type, "outputFinalState: a call with state advances that state instead");
  const StateBuffer& state = *call.state;
  if ((!pool && state.batch != p.N) || state.valueHeads * state.keyDim != p.D || state.valueDim != p.W - 1)
    fail(ErrorKind::Range, "state: expected shape [%s,D,1,W-1] = [%lld,%lld,1,%lld], got [%lld,%lld,%lld,%lld]",
         pool              ? "slots"
         : p.table.empty() ? "B"
                           : "N",
         static_cast<long long>(pool ? state.batch : p.N), static_cast<long long>(p.D), static_cast<long long>(p.W - 1),
         static_cast<long long>(state.batch), static_cast<long long>(state.valueHeads),
         static_cast<long long>(state.keyDim), static_cast<long long>(state.valueDim));
  if (state.keyHeads) fail(ErrorKind::Type, "state: expected one made without keyHeads");
  if (pool) expectStateRows(call, kStateIndices, p.N, state.batch);
}

void plan(Call& call) {
  expectInputs(call);
  const Problem p = bind(call, kCuSeqlens);
  checkState(call, p);
  setOutputLike(call, kY, call.input(kX), call.input(kX).dtype);
  if (call.flag(kOutputFinalState)) setOutput(call, kFinalState, {p.N, p.D, p.W - 1});
}

void run(const Call& call) {
  const Problem p = bind(call, kCuSeqlens);
  ShortConvArgs a;
  a.x = call.input(kX).data;
  a.weight = call.input(kWeight).data;
  a.bias = call.input(kBias).data;
  a.initialState = call.state ? call.state->data() : call.input(kInitialState).f32();
  a.y = call.outputs[kY].data;
  a.finalState = call.state ? call.state->data() : call.outputs[kFinalState].f32();
  if (call.input(kStateIndices).present()) a.stateRows = IndexView(call.input(kStateIndices));
  a.dtype = call.input(kX).dtype;
  a.weightDType = call.input(kWeight).dtype;
  a.biasDType = call.input(kBias).dtype;
  a.sequences = sequencesToRun(p, a.finalState);
  a.D = p.D;
  a.W = p.W;
  a.silu = call.integer(kActivation, 0) == 1;
  a.cancel = call.cancel;
  shortConv(a);
}

void planBackward(Call& call) {
  expectInputs(call);
  const Problem p = bind(call, kBackwardCuSeqlens);
  expectDType(call, kDY, kX);
  expectSameShape(call, kDY, kX);
  if (call.input(kDFinalState).present()) expectShape(call, kDFinalState, {p.N, p.D, p.W - 1}, sequencesName(p));
  const auto setGradient = [&](int gradient, const Tensor& of) {
    setOutputLike(call, gradient, of, gradientDType(call, kGradDtype, of));
  };
  setGradient(kDX, call.input(kX));
  setGradient(kDWeight, call.input(kWeight));
  if (call.input(kBias).present()) setGradient(kDBias, call.input(kBias));
  if (call.input(kInitialState).present()) setOutputLike(call, kDInitialState, call.input(kInitialState));
}

void runBackward(const Call& call) {
  const Problem p = bind(call, kBackwardCuSeqlens);
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
  a.sequences = sequencesToRun(p, a.dInitialState);
  a.D = p.D;
  a.W = p.W;
  a.silu = call.integer(kActivation, 0) == 1;
  a.cancel = call.cancel;
  shortConvBackward(a);
}

constexpr InputSpec kInputs[] = {{"x", true, kFloats},
                                 {"weight", true, kFloats},
                                 {"bias", false, kFloats},
                                 {"initialState", false},
                                 {"cuSeqlens", false, kIndices, Access::Read, ""},
                                 {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {{"x", true, kFloats},
                                         {"weight", true, kFloats},
                                         {"bias", false, kFloats},
                                         {"initialState", false},
                                         {"dY", true, kFloats},
                                         {"dFinalState", false},
                                         {"cuSeqlens", false, kIndices, Access::Read, ""}};
constexpr OptionSpec kOptions[] = {{"activation", OptionKind::Choice, "none|silu"},
                                   {"outputFinalState", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"activation", OptionKind::Choice, "none|silu"},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dWeight"}, {"dBias"}, {"dInitialState"}};

}  // namespace

extern const OpSpec shortConvOp, shortConvBackwardOp;
const OpSpec shortConvOp{"shortConv", kInputs, kOptions, kOutputs, plan, run, nullptr, true};
const OpSpec shortConvBackwardOp{"shortConvBackward", kBackwardInputs, kBackwardOptions,
                                 kGradients,          planBackward,    runBackward};

}  // namespace rankone
