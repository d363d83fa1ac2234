#include "ops/recurrence_problem.h"

namespace rankone {
namespace {

using namespace recurrence_inputs;
using namespace recurrence_options;
using namespace recurrence_gradients;

const InputSpec kInputs[] = {
    {"q"}, {"k"}, {"v"}, {"g", false}, {"beta", false}, {"initialState", false}, {"dO"}, {"dFinalState", false}};
const OptionSpec kOptions[] = {
    {"update", OptionKind::Choice, "additive|delta"},
    {"numHouseholder", OptionKind::Integer},
    {"scale", OptionKind::Number},
    {"mode", OptionKind::Choice, "auto|recurrent|chunk"},
    {"chunkSize", OptionKind::Integer},
    {"compute", OptionKind::Choice, "f32|bf16"},
    {"device", OptionKind::Choice, "cpu|cuda"},
    {"layer", OptionKind::Integer},
    {"layers", OptionKind::Integer},
    {"gradDtype", OptionKind::Choice, "f32|input"},
};
const OutputSpec kOutputs[] = {{"dq"}, {"dk"}, {"dv"}, {"dg"}, {"dbeta"}, {"dInitialState"}};

RecurrenceBackward bindArgs(const Call& call, std::vector<float>& fixedGate) {
  RecurrenceBackward args{};
  bindProblem(call, args, fixedGate);
  expectShape(call, kDO, {args.B, args.T, args.HV, args.V}, "[B,T,HV,V]");
  if (call.input(kDFinalState).present())
    expectShape(call, kDFinalState, {args.B, args.HV, args.K, args.V}, "[B,HV,K,V]");
  if (call.saved && !(call.saved->key == savedKey(args)))
    fail(ErrorKind::Range, "saved: it was made by a forward of another shape, gate or update");
  if (call.saved && !call.saved->states) fail(ErrorKind::State, "saved: it has been disposed");
  args.dO = call.input(kDO).f32();
  args.dFinalState = call.input(kDFinalState).f32();
  if (call.saved) {
    args.savedStates = call.saved->states;
    args.savedResiduals = call.saved->residuals;
  }
  args.dq = call.outputs[kDQ].f32();
  args.dk = call.outputs[kDK].f32();
  args.dv = call.outputs[kDV].f32();
  args.dg = call.outputs[kDG].f32();
  args.dbeta = call.outputs[kDBeta].f32();
  args.dInitialState = call.outputs[kDInitialState].f32();
  return args;
}

void plan(Call& call) {
  std::vector<float> fixedGate;
  const RecurrenceBackward args = bindArgs(call, fixedGate);
  call.outputs[kDQ].setShape({args.B, args.T, args.H, args.K});
  call.outputs[kDK].setShape({args.B, args.T * args.n, args.H, args.K});
  call.outputs[kDV].setShape({args.B, args.T * args.n, args.HV, args.V});
  if (call.input(kG).present()) {
    call.outputs[kDG] = call.input(kG);
    call.outputs[kDG].data = nullptr;
  }
  if (args.update == UpdateRule::Delta) call.outputs[kDBeta].setShape({args.B, args.T * args.n, args.HV});
  if (call.input(kInitialState).present()) call.outputs[kDInitialState].setShape({args.B, args.HV, args.K, args.V});
}

void run(const Call& call) {
  std::vector<float> fixedGate;
  recurrenceBackward(bindArgs(call, fixedGate));
}

}  // namespace

const OpSpec recurrenceBackwardOp = {
    .name = "recurrenceBackward",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .takesSaved = true,
};

}  // namespace rankone
