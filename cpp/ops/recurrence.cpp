#include "ops/recurrence.h"

#include "ops/recurrence_problem.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

using namespace recurrence_inputs;
using namespace recurrence_options;
using namespace recurrence_outputs;

enum Mode { kAuto, kRecurrent, kChunk };

const InputSpec kInputs[] = {{"q"}, {"k"}, {"v"}, {"g", false}, {"beta", false}, {"initialState", false}};
const OptionSpec kOptions[] = {
    {"update", OptionKind::Choice, "additive|delta"},
    {"numHouseholder", OptionKind::Integer},
    {"scale", OptionKind::Number},
    RANKONE_RUN_OPTIONS,
    {"layer", OptionKind::Integer},
    {"layers", OptionKind::Integer},
    {"outputFinalState", OptionKind::Flag},
    {"saveForBackward", OptionKind::Flag},
};
const OutputSpec kOutputs[] = {{"o"}, {"finalState"}};

// Below this many updates packing does not pay.
constexpr int64_t kTokenFormSteps = 2;

void bindState(const Call& call, RecurrenceForward& args) {
  if (!call.state) return;
  const StateBuffer& state = *call.state;
  if (args.initialState) fail(ErrorKind::Type, "initialState: expected none beside state, got a tensor");
  if (state.batch != args.B || state.valueHeads != args.HV || state.keyDim != args.K || state.valueDim != args.V)
    fail(ErrorKind::Range, "state: expected shape [B,HV,K,V] = [%lld,%lld,%lld,%lld], got [%lld,%lld,%lld,%lld]",
         static_cast<long long>(args.B), static_cast<long long>(args.HV), static_cast<long long>(args.K),
         static_cast<long long>(args.V), static_cast<long long>(state.batch), static_cast<long long>(state.valueHeads),
         static_cast<long long>(state.keyDim), static_cast<long long>(state.valueDim));
  args.initialState = args.finalState = state.data();
}

RecurrenceForward bindArgs(const Call& call, std::vector<float>* fixedGate) {
  RecurrenceForward args{};
  bindProblem(call, args, fixedGate);
  args.o = call.outputs[kO].f32();
  args.finalState = call.outputs[kFinalState].f32();
  args.packTokens = call.integer(kChunkSize, args.n > 1 ? 16 : 32);
  bindState(call, args);
  return args;
}

void plan(Call& call) {
  const RecurrenceForward args = bindArgs(call, nullptr);
  if (call.flag(kSaveForBackward) && call.state)
    fail(ErrorKind::Type, "saveForBackward: a call with state cannot be differentiated");
  setOutput(call, kO, {args.B, args.T, args.HV, args.V});
  if (call.flag(kOutputFinalState)) {
    if (call.state) fail(ErrorKind::Type, "outputFinalState: a call with state advances that state instead");
    setOutput(call, kFinalState, {args.B, args.HV, args.K, args.V});
  }
  if (!call.flag(kSaveForBackward)) return;
  const SavedGeometry geometry = savedGeometry(args.T, args.n, args.K, args.V);
  const size_t heads = static_cast<size_t>(args.B * args.HV);
  const size_t states = heads * geometry.chunks * geometry.stateFloats;
  const size_t residuals = args.update == UpdateRule::Delta ? heads * args.T * args.n * geometry.residualFloats : 0;
  auto saved = std::make_shared<SavedForward>();
  saved->buffer = AlignedBuffer((states + residuals) * sizeof(float));
  saved->key = savedKey(call, args);
  saved->states = saved->buffer.f32();
  saved->residuals = residuals ? saved->states + states : nullptr;
  call.saved = std::move(saved);
}

void run(const Call& call) {
  std::vector<float> fixedGate;
  RecurrenceForward args = bindArgs(call, &fixedGate);
  if (args.B == 0 || (args.T == 0 && !args.finalState)) return;  // nothing to write, whatever the other sizes say
  if (call.saved) {
    args.savedStates = call.saved->states;
    args.savedResiduals = call.saved->residuals;
    args.packTokens = savedGeometry(args.T, args.n, args.K, args.V).chunkTokens;
  }
  const int64_t mode = call.integer(kMode, kAuto);
  const bool tokens = !call.saved && (mode == kRecurrent || (mode == kAuto && args.T * args.n <= kTokenFormSteps));
  tokens ? recurrenceTokens(args) : recurrenceScan(args);
}

}  // namespace

const OpSpec recurrenceOp = {
    .name = "recurrence",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .takesState = true,
    .makesSaved = true,
};

}  // namespace rankone
