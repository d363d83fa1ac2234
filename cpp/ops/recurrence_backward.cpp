#include "ops/recurrence_problem.h"
#include "ops/shapes.h"

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
    RANKONE_RUN_OPTIONS,
    {"layer", OptionKind::Integer},
    {"layers", OptionKind::Integer},
    {"gradDtype", OptionKind::Choice, "f32|input"},
};
const OutputSpec kOutputs[] = {{"dq"}, {"dk"}, {"dv"}, {"dg"}, {"dbeta"}, {"dInitialState"}};

RecurrenceBackward bindArgs(const Call& call, std::vector<float>* fixedGate) {
  RecurrenceBackward args{};
  bindProblem(call, args, fixedGate);
  expectShape(call, kDO, {args.B, args.T, args.HV, args.V}, "[B,T,HV,V]");
  if (call.input(kDFinalState).present())
    expectShape(call, kDFinalState, {args.B, args.HV, args.K, args.V}, "[B,HV,K,V]");
  if (call.saved && !(call.saved->key == savedKey(call, args)))
    fail(ErrorKind::Range,
         "saved: expected what a forward of the same problem left (shape, gate, update, initial state), got another's");
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
  const RecurrenceBackward args = bindArgs(call, nullptr);
  setOutput(call, kDQ, {args.B, args.T, args.H, args.K});
  setOutput(call, kDK, {args.B, args.T * args.n, args.H, args.K});
  setOutput(call, kDV, {args.B, args.T * args.n, args.HV, args.V});
  if (call.input(kG).present()) {
    call.outputs[kDG] = call.input(kG);
    call.outputs[kDG].data = nullptr;
  }
  if (args.update == UpdateRule::Delta) setOutput(call, kDBeta, {args.B, args.T * args.n, args.HV});
  if (call.input(kInitialState).present()) setOutput(call, kDInitialState, {args.B, args.HV, args.K, args.V});
}

void run(const Call& call) {
  std::vector<float> fixedGate;
  recurrenceBackward(bindArgs(call, &fixedGate));
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
