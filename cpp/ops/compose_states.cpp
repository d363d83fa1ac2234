// The states between the segments of a sequence, out of what every segment does to the state that enters it.
#include "kernels/segments.h"
#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

constexpr InputSpec kInputs[] = {{"transitions"}, {"states"}, {"initialState", false}};
constexpr InputSpec kBackwardInputs[] = {
    {"transitions"}, {"dInitialStates"}, {"initialState", false}, {"initialStates", false}, {"dFinalState", false}};
constexpr OutputSpec kOutputs[] = {{"initialStates"}, {"finalState"}};
constexpr OutputSpec kGradients[] = {{"dStates"}, {"dTransitions"}, {"dInitialState"}};
enum { kTransitions, kStates, kInitialState, kInitialStates, kDFinalState };
enum { kOutInitialStates, kOutFinalState };
enum { kOutDStates, kOutDTransitions, kOutDInitialState };
constexpr int64_t kMaxDim = 512;

// `all`: the input with a state per segment.
SegmentChain chainOf(const Call& call, int all) {
  const Tensor &M = call.input(kTransitions), &S = call.input(all);
  const char* name = call.spec->inputs[all].name;
  expectRank(call, all, 5, "[R,N,HV,K,V]");
  const int64_t R = S.shape[0], N = S.shape[1], HV = S.shape[2], K = S.shape[3], V = S.shape[4];
  for (int64_t size : {K, V})
    if (size < 1 || size > kMaxDim)
      fail(ErrorKind::Range, "%s: expected K and V from 1 to %lld, got shape %s", name, static_cast<long long>(kMaxDim),
           S.shapeText().c_str());
  Transition kind = Transition::Scalar;
  switch (M.rank) {
    case 3: expectShape(call, kTransitions, {R, N, HV}, "[R,N,HV]"); break;
    case 4:
      expectShape(call, kTransitions, {R, N, HV, K}, "[R,N,HV,K]");
      kind = Transition::Diagonal;
      break;
    case 5:
      expectShape(call, kTransitions, {R, N, HV, K, K}, "[R,N,HV,K,K]");
      kind = Transition::Matrix;
      break;
    default:
      fail(ErrorKind::Range, "transitions: expected rank 3 [R,N,HV], 4 [R,N,HV,K] or 5 [R,N,HV,K,K], got shape %s",
           M.shapeText().c_str());
  }
  if (call.input(kInitialState).present()) expectShape(call, kInitialState, {N, HV, K, V}, "[N,HV,K,V]");
  expectCountable(name, {N, HV, K, V});
  return {R, N * HV, K, V, kind, M.f32(), call.input(kInitialState).f32(), call.cancel};
}

void plan(Call& call) {
  expectInputs(call);
  chainOf(call, kStates);
  const Tensor& S = call.input(kStates);
  setOutputLike(call, kOutInitialStates, S);
  setOutput(call, kOutFinalState, S.shape + 1, 4);
}

void run(const Call& call) {
  SegmentStates args{chainOf(call, kStates), call.input(kStates).f32(), call.outputs[kOutInitialStates].f32(),
                     call.outputs[kOutFinalState].f32()};
  composeStates(args);
}

void planBackward(Call& call) {
  expectInputs(call);
  chainOf(call, kStates);
  const Tensor& S = call.input(kStates);
  expectSameShape(call, kInitialStates, kStates);
  if (call.input(kDFinalState).present())
    expectShape(call, kDFinalState, {S.shape[1], S.shape[2], S.shape[3], S.shape[4]}, "[N,HV,K,V]");
  setOutputLike(call, kOutDStates, S);
  if (call.input(kInitialStates).present()) setOutputLike(call, kOutDTransitions, call.input(kTransitions));
  if (call.input(kInitialState).present()) setOutputLike(call, kOutDInitialState, call.input(kInitialState));
}

void runBackward(const Call& call) {
  SegmentGradients args{chainOf(call, kStates),
                        call.input(kInitialStates).f32(),
                        call.input(kStates).f32(),
                        call.input(kDFinalState).f32(),
                        call.outputs[kOutDStates].f32(),
                        call.outputs[kOutDTransitions].f32(),
                        call.outputs[kOutDInitialState].f32()};
  composeStatesBackward(args);
}

}  // namespace

extern const OpSpec composeStatesOp, composeStatesBackwardOp;

const OpSpec composeStatesOp = {
    .name = "composeStates",
    .inputs = kInputs,
    .options = {},
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
};

const OpSpec composeStatesBackwardOp = {
    .name = "composeStatesBackward",
    .inputs = kBackwardInputs,
    .options = {},
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
};

}  // namespace rankone
