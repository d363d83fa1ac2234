#include "ops/recurrence_cuda.h"

#include "ops/recurrence_problem.h"

namespace rankone::cuda {
namespace {

using namespace recurrence_inputs;
using namespace recurrence_options;

static_assert(RANKONE_DELTA == static_cast<int>(UpdateRule::Delta));
static_assert(RANKONE_GATE_HEAD == static_cast<int>(GateKind::Head) &&
              RANKONE_GATE_CHANNEL == static_cast<int>(GateKind::Channel));
static_assert(RANKONE_BETA_SIGMOID2 == static_cast<int>(BetaActivation::Sigmoid2));

// A problem, and what of it had to be made for the backend.
struct Problem {
  RankoneRecurrence problem{};
  std::vector<int64_t> starts;
  Array<float> fixedGate;
  Array<int32_t> stateRows;
};

// Without the arrays that take memory, as savedBytes() needs it.
void describe(const Call& call, const RecurrenceProblem& from, Problem& to) {
  RankoneRecurrence& p = to.problem;
  p.B = from.B;
  p.T = from.T;
  p.H = from.H;
  p.HV = from.HV;
  p.K = from.K;
  p.V = from.V;
  p.n = from.n;
  p.N = from.N;
  p.update = static_cast<int32_t>(from.update);
  p.gate = static_cast<int32_t>(from.gate);
  p.mode = static_cast<int32_t>(call.integer(kMode, RANKONE_MODE_AUTO));
  p.compute = call.options[kCompute].given ? RANKONE_COMPUTE_F32 + static_cast<int32_t>(call.integer(kCompute, 0))
                                           : RANKONE_COMPUTE_DEFAULT;
  p.scale = from.scale;
  p.normalize = call.flag(kNormalize);
  p.q = floatsOf(from.q);
  p.k = floatsOf(from.k);
  p.v = floatsOf(from.v);
  p.g = floatsOf(from.g);
  p.beta = floatsOf(from.beta);
  p.valueScale = from.valueScale;
  p.keysFromGates = from.keysFromGates;
  p.qkL2norm = from.qkL2norm;
  p.aLog = from.gateActivation.aLog;
  p.dtBias = from.gateActivation.dtBias;
  p.lowerBound = from.gateActivation.bounded ? from.gateActivation.lowerBound : 0;
  p.betaActivation = static_cast<int32_t>(from.betaActivation);
  p.initialState = from.initialState;
  if (!from.cuSeqlens) return;
  for (int64_t i = 0; i <= from.N; ++i) to.starts.push_back(from.cuSeqlens[i]);
  p.cuSeqlens = to.starts.data();
}

void bind(const Call& call, const RecurrenceProblem& from, Problem& to) {
  describe(call, from, to);
  if (call.preset && call.preset->fixedGate != FixedGate::No && from.g) {
    to.fixedGate = Array<float>(call.device, static_cast<const float*>(from.g.data), static_cast<size_t>(from.HV));
    to.problem.g = {to.fixedGate.data(), RANKONE_F32};
  }
  if (!from.stateRows) return;
  std::vector<int32_t> rows(static_cast<size_t>(from.N));
  for (int64_t i = 0; i < from.N; ++i) rows[i] = static_cast<int32_t>(from.stateRows[i]);
  to.stateRows = Array<int32_t>(call.device, rows.data(), rows.size());
  to.problem.stateRows = to.stateRows.data();
}

}  // namespace

std::shared_ptr<SavedForward> makeSaved(const Call& call, const RecurrenceProblem& problem) {
  Problem p;
  describe(call, problem, p);
  auto saved = std::make_shared<SavedForward>();
  saved->key = savedKey(call, problem);
  saved->deviceBuffer = std::make_shared<Buffer>(call.device, call.device->savedBytes(p.problem));
  return saved;
}

void recurrenceForward(const Call& call, const RecurrenceForward& args, const Normalizer& z) {
  Problem p;
  bind(call, args, p);
  p.problem.initialZ = z.initialZ;
  RankoneRecurrenceForward forward{};
  forward.problem = p.problem;
  forward.o = args.o;
  forward.finalState = args.finalState;
  forward.finalZ = z.finalZ;
  forward.saved = call.saved ? call.saved->deviceBuffer->data() : nullptr;
  call.device->run(&RankoneCuda::recurrenceForward, static_cast<const RankoneRecurrenceForward*>(&forward));
}

void recurrenceBackward(const Call& call, const RecurrenceBackward& args) {
  Problem p;
  bind(call, args, p);
  p.problem.initialZ = call.input(kInitialZ).f32();
  RankoneRecurrenceBackward backward{};
  backward.problem = p.problem;
  backward.dO = floatsOf(args.dO);
  backward.dFinalState = args.dFinalState;
  backward.dFinalZ = call.input(kDFinalZ).f32();
  backward.saved = call.saved ? call.saved->deviceBuffer->data() : nullptr;
  backward.dq = args.dq;
  backward.dk = args.dk;
  backward.dv = args.dv;
  backward.dg = args.dg;
  backward.dbeta = args.dbeta;
  backward.dInitialState = args.dInitialState;
  backward.dInitialZ = call.outputs[recurrence_gradients::kDInitialZ].f32();
  backward.dALog = args.dALog;
  backward.dDtBias = args.dDtBias;
  call.device->run(&RankoneCuda::recurrenceBackward, static_cast<const RankoneRecurrenceBackward*>(&backward));
}

}  // namespace rankone::cuda
