// HGRN2 as a cell of the grid: a gate per channel and additive updates whose keys are k = 1 - e^g. Qin et al. 2024.
#include "kernels/hgrn2.h"

#include "ops/cuda.h"
#include "ops/gradients.h"
#include "ops/recurrence.h"

namespace rankone {
namespace {

enum { kQ, kV, kG, kInitialState, kCuSeqlens, kStateIndices, kDO = kStateIndices, kDFinalState };
enum { kScale, kMode, kChunkSize, kCompute, kDevice, kGradDtype };
enum { kOutDQ, kOutDV, kOutDG, kOutDInitialState };

#define RANKONE_HGRN2_INPUTS                                                                   \
  {"q", true, kFloats}, {"v", true, kFloats}, {"g", true, kFloats}, {"initialState", false}, { \
    "cuSeqlens", false, kIndices, Access::Read, ""                                             \
  }
constexpr InputSpec kInputs[] = {RANKONE_HGRN2_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {RANKONE_HGRN2_INPUTS, {"dO", true, kFloats}, {"dFinalState", false}};
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
const OutputSpec kOutputs[] = {{"o"}, {"finalState"}};
const OutputSpec kGradients[] = {{"dq"}, {"dv"}, {"dg"}, {"dInitialState"}};

Call gridCall(const OpSpec& spec, const Call& call) {
  expectRank(call, kQ, 4, "[B,T,H,K]");
  const Tensor& q = call.input(kQ);
  expectRank(call, kV, 4, "[B,T,H,V]");
  expectShape(call, kV, {q.shape[0], q.shape[1], q.shape[2], call.input(kV).shape[3]}, "[B,T,H,V]");
  expectShape(call, kG, {q.shape[0], q.shape[1], q.shape[2], q.shape[3]}, "[B,T,H,K]");
  expectDType(call, kV, kQ);
  expectDType(call, kG, kQ, true);
  Call inner = innerCall(spec, call);
  inner.inputs[recurrence_inputs::kQ] = q;
  inner.inputs[recurrence_inputs::kK] = call.input(kG);
  inner.keysFromGates = true;
  inner.inputs[recurrence_inputs::kV] = call.input(kV);
  inner.inputs[recurrence_inputs::kG] = call.input(kG);
  inner.inputs[recurrence_inputs::kInitialState] = call.input(kInitialState);
  inner.inputs[recurrence_inputs::kCuSeqlens] = call.input(kCuSeqlens);
  return inner;
}

Call forwardCall(const Call& call) {
  Call inner = gridCall(recurrenceOp, call);
  inner.inputs[recurrence_inputs::kStateIndices] = call.input(kStateIndices);
  return inner;
}

void plan(Call& call) {
  Call inner = forwardCall(call);
  recurrenceOp.plan(inner);
  for (int i : {recurrence_outputs::kO, recurrence_outputs::kFinalState}) call.outputs[i] = inner.outputs[i];
  call.saved = inner.saved;
}

void run(const Call& call) {
  Call inner = forwardCall(call);
  for (int i : {recurrence_outputs::kO, recurrence_outputs::kFinalState}) inner.outputs[i] = call.outputs[i];
  execute(inner);
}

Call backwardCall(const Call& call) {
  Call inner = gridCall(recurrenceBackwardOp, call);
  expectDType(call, kDO, kQ);
  inner.inputs[recurrence_inputs::kDO] = call.input(kDO);
  inner.inputs[recurrence_inputs::kDFinalState] = call.input(kDFinalState);
  return inner;
}

void planBackward(Call& call) {
  using namespace recurrence_gradients;
  Call inner = backwardCall(call);
  recurrenceBackwardOp.plan(inner);
  call.outputs[kOutDQ] = inner.outputs[kDQ];
  call.outputs[kOutDV] = inner.outputs[kDV];
  call.outputs[kOutDG] = inner.outputs[kDG];
  call.outputs[kOutDInitialState] = inner.outputs[kDInitialState];
}

// gradients: where the op's and the keys' are to be computed.
template <class Gradients>
Call backwardInto(const Call& call, Gradients& gradients, float* keyGradients) {
  using namespace recurrence_gradients;
  const Tensor& g = call.input(kG);
  Call inner = backwardCall(call);
  inner.outputs[kDQ] = floatsLike(call.input(kQ), gradients.f32(kOutDQ));
  inner.outputs[kDK] = floatsLike(g, keyGradients);
  inner.outputs[kDV] = floatsLike(call.input(kV), gradients.f32(kOutDV));
  inner.outputs[kDG] = floatsLike(g, gradients.f32(kOutDG));
  inner.outputs[kDInitialState] = call.outputs[kOutDInitialState];
  return inner;
}

void runBackward(const Call& call) {
  using namespace recurrence_gradients;
  const Tensor& g = call.input(kG);
  AlignedBuffer keyGradients(static_cast<size_t>(g.size()) * sizeof(float));
  GradientBuffers gradients(call);
  const Call inner = backwardInto(call, gradients, keyGradients.f32());
  recurrenceBackwardOp.run(inner);
  hgrn2AddGateGradient(g.size(), FloatView(g), keyGradients.f32(), inner.outputs[kDG].f32(), call.cancel);
  gradients.finish();
}

void runBackwardCuda(const Call& call) {
  using namespace recurrence_gradients;
  const int64_t count = call.input(kG).size();
  cuda::GradientBuffers gradients(call);
  const Call inner = backwardInto(call, gradients, gradients.scratch(count));
  recurrenceBackwardOp.runCuda(inner);
  // That of the keys is of the log gates already.
  if (count > 0)
    call.device->run(&RankoneCuda::add, inner.outputs[kDG].f32(), static_cast<const float*>(inner.outputs[kDK].f32()),
                     count);
  gradients.finish();
}

}  // namespace

extern const OpSpec hgrn2Op, hgrn2BackwardOp;

const OpSpec hgrn2Op = {
    .name = "hgrn2",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .runCuda = run,
    .takesState = true,
    .makesSaved = true,
};

const OpSpec hgrn2BackwardOp = {
    .name = "hgrn2Backward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
    .runCuda = runBackwardCuda,
    .takesSaved = true,
};

}  // namespace rankone
