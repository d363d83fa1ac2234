#include "ops/recurrence.h"

#include <algorithm>

#include "ops/recurrence_cuda.h"
#include "ops/recurrence_problem.h"
#include "ops/sequences.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

using namespace recurrence_inputs;
using namespace recurrence_options;
using namespace recurrence_outputs;

enum Mode { kAuto, kRecurrent, kChunk };

const InputSpec kInputs[] = {RANKONE_RECURRENCE_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
const OptionSpec kOptions[] = {
    RANKONE_RECURRENCE_OPTIONS,
    {"outputFinalState", OptionKind::Flag},
    {"saveForBackward", OptionKind::Flag},
};
const OutputSpec kOutputs[] = {{"o"}, {"finalState"}, {"finalZ"}};

// Up to this many updates, and for a single token, packing does not pay.
constexpr int64_t kTokenFormSteps = 2;

struct Bound {
  RecurrenceForward args{};
  Normalizer z;
};

void checkState(const Call& call, const RecurrenceForward& args) {
  const StateBuffer& state = *call.state;
  for (int input : {kInitialState, kInitialZ})
    if (call.input(input).present())
      fail(ErrorKind::Type, "%s: expected none beside state, got a tensor", call.spec->inputs[input].name);
  const bool pool = call.input(kStateIndices).present();
  if ((!pool && state.batch != args.N) || state.valueHeads != args.HV || state.keyDim != args.K ||
      state.valueDim != args.V)
    fail(ErrorKind::Range, "state: expected shape [%s,HV,K,V] = [%lld,%lld,%lld,%lld], got [%lld,%lld,%lld,%lld]",
         pool ? "slots" : sequencesName(args), static_cast<long long>(pool ? state.batch : args.N),
         static_cast<long long>(args.HV), static_cast<long long>(args.K), static_cast<long long>(args.V),
         static_cast<long long>(state.batch), static_cast<long long>(state.valueHeads),
         static_cast<long long>(state.keyDim), static_cast<long long>(state.valueDim));
  const bool normalized = call.flag(kNormalize);
  if (normalized && state.keyHeads != args.H)
    fail(ErrorKind::Range, "state: normalize needs one made with keyHeads = %lld, got %lld",
         static_cast<long long>(args.H), static_cast<long long>(state.keyHeads));
  if (!normalized && state.keyHeads)
    fail(ErrorKind::Type, "state: expected one made without keyHeads, as this call does not normalize");
  if (pool) expectStateRows(call, kStateIndices, args.N, state.batch);
}

void bindState(const Call& call, Bound& bound, bool planning) {
  const Tensor& indices = call.input(kStateIndices);
  if (!call.state) {
    if (indices.present()) fail(ErrorKind::Type, "stateIndices: expected a state beside them, got none");
    return;
  }
  if (planning) checkState(call, bound.args);
  if (indices.present()) bound.args.stateRows = IndexView(indices);
  bound.args.initialState = bound.args.finalState = call.state->data();
  bound.z.initialZ = bound.z.finalZ = call.state->z();
}

Bound bindArgs(const Call& call, std::vector<float>* fixedGate) {
  Bound bound;
  RecurrenceForward& args = bound.args;
  bindProblem(call, args, fixedGate);
  const Tensor& o = call.outputs[kO];
  args.o = o.data;
  args.oDType = o.dtype;
  args.finalState = call.outputs[kFinalState].f32();
  args.packTokens = call.integer(kChunkSize, args.n > 1 ? 16 : 32);
  const int64_t mode = call.integer(kMode, kAuto);
  args.tokenSteps = mode == kRecurrent ? std::numeric_limits<int64_t>::max()
                    : mode == kChunk   ? -1
                                       : std::max(kTokenFormSteps, args.n);
  bound.z.initialZ = call.input(kInitialZ).f32();
  bound.z.finalZ = call.outputs[kFinalZ].f32();
  bindState(call, bound, fixedGate == nullptr);
  return bound;
}

void plan(Call& call) {
  const RecurrenceForward args = bindArgs(call, nullptr).args;
  if (call.flag(kSaveForBackward) && call.state)
    fail(ErrorKind::Type, "saveForBackward: a call with state cannot be differentiated");
  setOutput(call, kO, {args.B, args.T, args.HV, args.V}, call.input(kQ).dtype);
  if (call.flag(kOutputFinalState)) {
    if (call.state) fail(ErrorKind::Type, "outputFinalState: a call with state advances that state instead");
    setOutput(call, kFinalState, {args.N, args.HV, args.K, args.V});
    if (call.flag(kNormalize)) setOutput(call, kFinalZ, {args.N, args.H, args.K});
  }
  if (!call.flag(kSaveForBackward)) return;
  if (call.device) {
    call.saved = cuda::makeSaved(call, args);
    return;
  }
  const SavedGeometry geometry = savedGeometry(args.n, args.K, args.V);
  const size_t states = geometry.allStates(args);
  const size_t residuals = args.update == UpdateRule::Delta ? geometry.allResiduals(args) : 0;
  auto saved = std::make_shared<SavedForward>();
  saved->buffer = AlignedBuffer((states + residuals) * sizeof(float));
  saved->key = savedKey(call, args);
  saved->states = saved->buffer.f32();
  saved->residuals = residuals ? saved->states + states : nullptr;
  call.saved = std::move(saved);
}

// Smaller states leave the bf16 products too little to do, and their rounding too few elements to average over.
constexpr int64_t kSmallestBf16Dim = 32, kSmallestBf16State = 1536;

bool takesBf16Chunks(const Call& call, const RecurrenceProblem& p) {
  return call.integer(kCompute, 0) == 1 && !call.saved && p.K >= kSmallestBf16Dim && p.V >= kSmallestBf16Dim &&
         p.K * p.V >= kSmallestBf16State;
}

void run(const Call& call) {
  std::vector<float> fixedGate;
  Bound bound = bindArgs(call, &fixedGate);
  RecurrenceForward& args = bound.args;
  if (args.N == 0 || (args.B * args.T == 0 && !args.finalState && !bound.z.finalZ)) return;  // nothing to write
  AlignedBuffer scales;
  if (call.flag(kNormalize)) {
    scales = AlignedBuffer(static_cast<size_t>(args.B * args.T * args.H) * sizeof(float));
    bound.z.scales = scales.f32();
    normalizerScales(args, bound.z);
    args.outputScale = bound.z.scales;
    args.scale = 1;
  }
  if (call.saved) {
    args.savedStates = call.saved->states;
    args.savedResiduals = call.saved->residuals;
    args.packTokens = savedGeometry(args.n, args.K, args.V).chunkTokens;
    args.tokenSteps = -1;
  }
  bool tokens = false, scans = false;
  for (int64_t i = 0; i < args.N; ++i) (args.tokenForm(i) ? tokens : scans) = true;
  if (tokens) recurrenceTokens(args);
  if (scans) takesBf16Chunks(call, args) ? recurrenceChunksBf16(args) : recurrenceScan(args);
}

void runCuda(const Call& call) {
  std::vector<float> fixedGate;
  const Bound bound = bindArgs(call, &fixedGate);
  if (bound.args.N > 0) cuda::recurrenceForward(call, bound.args, bound.z);
}

}  // namespace

const OpSpec recurrenceOp = {
    .name = "recurrence",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .runCuda = runCuda,
    .takesState = true,
    .makesSaved = true,
};

}  // namespace rankone
