// The gradient of the state that enters a segment, through the segment's own outputs alone: what its backward has to
// tell the segments before it. Neither values nor states take part.
#include "kernels/recurrence.h"
#include "ops/segments.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum { kQ, kK, kDO, kV };
enum { kOutDInitialState };

constexpr InputSpec kInputs[] = {
    {"q", true, kFloats}, {"k", true, kFloats}, {"dO", true, kFloats}, {"v", false, kFloats}, RANKONE_SEGMENT_INPUTS};
constexpr OptionSpec kOptions[] = {RANKONE_SEGMENT_OPTIONS, {"scale", OptionKind::Number}};
constexpr OutputSpec kOutputs[] = {{"dInitialState"}};

void plan(Call& call) {
  expectInputs(call);
  for (int input : {kK, kDO, kV}) expectDType(call, input, kQ);
  const RecurrenceProblem p = segmentProblem(recurrenceCallOf(call), true);
  expectShape(call, kDO, {p.B, p.T, p.HV, p.V}, "[B,T,HV,V]");
  setOutput(call, kOutDInitialState, {p.N, p.HV, p.K, p.V});
}

void run(const Call& call) {
  const Call inner = recurrenceCallOf(call);
  RecurrenceProblem forward = segmentProblem(inner, false);
  if (forward.N == 0) return;
  const bool delta = forward.update == UpdateRule::Delta;
  RecurrenceForward args{};
  static_cast<RecurrenceProblem&>(args) = forward;
  forward.v = FloatView();
  if (!delta) forward.k = FloatView();
  args.q = FloatView();
  args.v = FloatView(call.input(kDO));
  args.reverseOf = &forward;
  args.n = delta ? forward.n + 1 : 1;
  args.packTokens = args.n > 1 ? 16 : 32;
  args.tokenSteps = -1;
  args.finalState = call.outputs[kOutDInitialState].f32();
  recurrenceScan(args);
}

}  // namespace

extern const OpSpec segmentGradientOp;

const OpSpec segmentGradientOp = {
    .name = "segmentGradient",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
};

}  // namespace rankone
