// HGRN2 as a cell of the grid: a gate per channel and additive updates whose keys are k = 1 - e^g. Qin et al. 2024.
#include "kernels/hgrn2.h"

#include "ops/recurrence.h"

namespace rankone {
namespace {

enum { kQ, kV, kG, kInitialState, kDO, kDFinalState };
enum { kOutDQ, kOutDV, kOutDG, kOutDInitialState };

constexpr InputSpec kInputs[] = {{"q"}, {"v"}, {"g"}, {"initialState", false}, {"dO"}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {
    {"scale", OptionKind::Number},
    RANKONE_RUN_OPTIONS,
    {"outputFinalState", OptionKind::Flag},
    {"saveForBackward", OptionKind::Flag},
};
constexpr OptionSpec kBackwardOptions[] = {
    {"scale", OptionKind::Number},
    RANKONE_RUN_OPTIONS,
    {"gradDtype", OptionKind::Choice, "f32|input"},
};
constexpr size_t kForwardInputs = 4;
const OutputSpec kOutputs[] = {{"o"}, {"finalState"}};
const OutputSpec kGradients[] = {{"dq"}, {"dv"}, {"dg"}, {"dInitialState"}};

Call gridCall(const OpSpec& spec, const Call& call, float* k) {
  expectRank(call, kQ, 4, "[B,T,H,K]");
  const Tensor& q = call.input(kQ);
  expectRank(call, kV, 4, "[B,T,H,V]");
  expectShape(call, kV, {q.shape[0], q.shape[1], q.shape[2], call.input(kV).shape[3]}, "[B,T,H,V]");
  expectShape(call, kG, {q.shape[0], q.shape[1], q.shape[2], q.shape[3]}, "[B,T,H,K]");
  Call inner = innerCall(spec, call);
  inner.inputs[recurrence_inputs::kQ] = q;
  inner.inputs[recurrence_inputs::kK] = call.input(kG);
  inner.inputs[recurrence_inputs::kK].data = k;
  inner.inputs[recurrence_inputs::kV] = call.input(kV);
  inner.inputs[recurrence_inputs::kG] = call.input(kG);
  inner.inputs[recurrence_inputs::kInitialState] = call.input(kInitialState);
  return inner;
}

void plan(Call& call) {
  Call inner = gridCall(recurrenceOp, call, nullptr);
  recurrenceOp.plan(inner);
  for (int i : {recurrence_outputs::kO, recurrence_outputs::kFinalState}) call.outputs[i] = inner.outputs[i];
  call.saved = inner.saved;
}

void run(const Call& call) {
  const Tensor& g = call.input(kG);
  AlignedBuffer keys(g.bytes());
  hgrn2Keys(g.size(), g.f32(), keys.f32(), call.cancel);
  Call inner = gridCall(recurrenceOp, call, keys.f32());
  for (int i : {recurrence_outputs::kO, recurrence_outputs::kFinalState}) inner.outputs[i] = call.outputs[i];
  recurrenceOp.run(inner);
}

Call backwardCall(const Call& call, float* k) {
  Call inner = gridCall(recurrenceBackwardOp, call, k);
  inner.inputs[recurrence_inputs::kDO] = call.input(kDO);
  inner.inputs[recurrence_inputs::kDFinalState] = call.input(kDFinalState);
  return inner;
}

void planBackward(Call& call) {
  using namespace recurrence_gradients;
  Call inner = backwardCall(call, nullptr);
  recurrenceBackwardOp.plan(inner);
  call.outputs[kOutDQ] = inner.outputs[kDQ];
  call.outputs[kOutDV] = inner.outputs[kDV];
  call.outputs[kOutDG] = inner.outputs[kDG];
  call.outputs[kOutDInitialState] = inner.outputs[kDInitialState];
}

void runBackward(const Call& call) {
  using namespace recurrence_gradients;
  const Tensor& g = call.input(kG);
  AlignedBuffer keys(g.bytes()), keyGradients(g.bytes());
  hgrn2Keys(g.size(), g.f32(), keys.f32(), call.cancel);
  Call inner = backwardCall(call, keys.f32());
  inner.outputs[kDQ] = call.outputs[kOutDQ];
  inner.outputs[kDK] = g;
  inner.outputs[kDK].data = keyGradients.data();
  inner.outputs[kDV] = call.outputs[kOutDV];
  inner.outputs[kDG] = call.outputs[kOutDG];
  inner.outputs[kDInitialState] = call.outputs[kOutDInitialState];
  recurrenceBackwardOp.run(inner);
  hgrn2AddGateGradient(g.size(), g.f32(), keyGradients.f32(), call.outputs[kOutDG].f32(), call.cancel);
}

}  // namespace

extern const OpSpec hgrn2Op, hgrn2BackwardOp;

const OpSpec hgrn2Op = {
    .name = "hgrn2",
    .inputs = std::span(kInputs).first(kForwardInputs),
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .takesState = true,
    .makesSaved = true,
};

const OpSpec hgrn2BackwardOp = {
    .name = "hgrn2Backward",
    .inputs = kInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
    .takesSaved = true,
};

}  // namespace rankone
