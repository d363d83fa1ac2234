#include "ops/gradients.h"
#include "ops/recurrence_cuda.h"
#include "ops/recurrence_problem.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

using namespace recurrence_inputs;
using namespace recurrence_options;
using namespace recurrence_gradients;

const InputSpec kInputs[] = {
    RANKONE_RECURRENCE_INPUTS, {"dO", true, kFloats}, {"dFinalState", false}, {"dFinalZ", false}};
const OptionSpec kOptions[] = {
    RANKONE_RECURRENCE_OPTIONS,
    {"gradDtype", OptionKind::Choice, "f32|input"},
};
const OutputSpec kOutputs[] = {{"dq"},    {"dk"},      {"dv"},       {"dg"}, {"dbeta"}, {"dInitialState"},
                               {"dALog"}, {"dDtBias"}, {"dInitialZ"}};

RecurrenceBackward bindArgs(const Call& call, std::vector<float>* fixedGate) {
  RecurrenceBackward args{};
  bindProblem(call, args, fixedGate);
  expectShape(call, kDO, {args.B, args.T, args.HV, args.V}, "[B,T,HV,V]");
  expectDType(call, kDO, kQ);
  if (call.input(kDFinalState).present())
    expectShape(call, kDFinalState, {args.N, args.HV, args.K, args.V}, args.cuSeqlens ? "[N,HV,K,V]" : "[B,HV,K,V]");
  if (call.input(kDFinalZ).present()) {
    if (!call.flag(kNormalize)) fail(ErrorKind::Type, "dFinalZ: expected none without normalize, got a tensor");
    expectShape(call, kDFinalZ, {args.N, args.H, args.K}, args.cuSeqlens ? "[N,H,K]" : "[B,H,K]");
  }
  if (call.saved && !(call.saved->key == savedKey(call, args)))
    fail(ErrorKind::Range,
         "saved: expected what a forward of the same problem left (shape, gate, update, activations, sequences, "
         "initial state), got another's");
  args.dO = FloatView(call.input(kDO));
  args.dFinalState = call.input(kDFinalState).f32();
  if (call.saved) {
    args.savedStates = call.saved->states;
    args.savedResiduals = call.saved->residuals;
  }
  return args;
}

void plan(Call& call) {
  bindArgs(call, nullptr);
  const auto like = [&](int output, int input) {
    const Tensor& t = call.input(input);
    if (t.present()) setOutputLike(call, output, t, gradientDType(call, kGradDtype, t));
  };
  like(kDQ, kQ);
  like(kDK, kK);
  like(kDV, kV);
  like(kDG, kG);
  like(kDBeta, kBeta);
  like(kDInitialState, kInitialState);
  like(kDInitialZ, kInitialZ);
  like(kDALog, kALog);
  like(kDDtBias, kDtBias);
}

void run(const Call& call) {
  std::vector<float> fixedGate;
  RecurrenceBackward args = bindArgs(call, &fixedGate);
  GradientBuffers gradients(call);
  args.dq = gradients.f32(kDQ);
  args.dk = gradients.f32(kDK);
  args.dv = gradients.f32(kDV);
  args.dg = gradients.f32(kDG);
  args.dbeta = gradients.f32(kDBeta);
  args.dInitialState = gradients.f32(kDInitialState);
  args.dALog = gradients.f32(kDALog);
  args.dDtBias = gradients.f32(kDDtBias);
  AlignedBuffer scales;
  Normalizer z;
  if (call.flag(kNormalize)) {
    scales = AlignedBuffer(static_cast<size_t>(args.B * args.T * args.H) * sizeof(float));
    z.initialZ = call.input(kInitialZ).f32();
    z.scales = scales.f32();
    normalizerScales(args, z);
    args.outputScale = z.scales;
    args.scale = 1;
  }
  recurrenceBackward(args);
  if (call.flag(kNormalize)) normalizerGradients(args, z, call.input(kDFinalZ).f32(), call.outputs[kDInitialZ].f32());
  recurrenceActivationGradients(args);
  gradients.finish();
}

void runCuda(const Call& call) {
  std::vector<float> fixedGate;
  RecurrenceBackward args = bindArgs(call, &fixedGate);
  cuda::GradientBuffers gradients(call);
  args.dq = gradients.f32(kDQ);
  args.dk = gradients.f32(kDK);
  args.dv = gradients.f32(kDV);
  args.dg = gradients.f32(kDG);
  args.dbeta = gradients.f32(kDBeta);
  args.dInitialState = gradients.f32(kDInitialState);
  args.dALog = gradients.f32(kDALog);
  args.dDtBias = gradients.f32(kDDtBias);
  cuda::recurrenceBackward(call, args);
  gradients.finish();
}

}  // namespace

const OpSpec recurrenceBackwardOp = {
    .name = "recurrenceBackward",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .runCuda = runCuda,
    .takesSaved = true,
};

}  // namespace rankone
