// Mamba-2 under its own argument names, as a cell of the grid: a gate per token and additive updates with K = N, V = P,
// H = G, q = C, k = B, v = dt x, g = dt A, scale 1, and y = o + D x. Dao and Gu 2024.
#include "kernels/mamba2.h"

#include <cmath>
#include <limits>

#include "ops/cuda.h"
#include "ops/gradients.h"
#include "ops/recurrence_problem.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum { kX, kDt, kA, kB, kC, kD, kDtBias, kInitialState, kCuSeqlens, kStateIndices, kDY = kStateIndices, kDFinalState };
enum { kDtSoftplus, kDtLimit, kDtLimitHigh, kMode, kChunkSize, kCompute, kDevice, kGradDtype };
enum { kOutY, kOutFinalState };
enum { kOutDx, kOutDdt, kOutDA, kOutDB, kOutDC, kOutDD, kOutDDtBias, kOutDInitialState };

#define RANKONE_MAMBA2_INPUTS                                                                                   \
  {"x", true, kFloats}, {"dt", true, kFloats}, {"A"}, {"B", true, kFloats}, {"C", true, kFloats}, {"D", false}, \
      {"dtBias", false}, {"initialState", false}, {                                                             \
    "cuSeqlens", false, kIndices, Access::Read, ""                                                              \
  }
constexpr InputSpec kInputs[] = {RANKONE_MAMBA2_INPUTS, {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {RANKONE_MAMBA2_INPUTS, {"dY", true, kFloats}, {"dFinalState", false}};
constexpr OptionSpec kOptions[] = {
    {"dtSoftplus", OptionKind::Flag},
    {"dtLimit", OptionKind::Pair},
    {"", OptionKind::PairHigh},
    RANKONE_RUN_OPTIONS,
    {"outputFinalState", OptionKind::Flag},
    {"saveForBackward", OptionKind::Flag},
};
constexpr OptionSpec kBackwardOptions[] = {
    {"dtSoftplus", OptionKind::Flag},
    {"dtLimit", OptionKind::Pair},
    {"", OptionKind::PairHigh},
    RANKONE_RUN_OPTIONS,
    {"gradDtype", OptionKind::Choice, "f32|input"},
};
const OutputSpec kOutputs[] = {{"y"}, {"finalState"}};
const OutputSpec kGradients[] = {{"dx"}, {"ddt"}, {"dA"}, {"dB"}, {"dC"}, {"dD"}, {"dDtBias"}, {"dInitialState"}};

Mamba2Args bindArgs(const Call& call) {
  expectRank(call, kX, 4, "[B,T,HV,P]");
  expectRank(call, kB, 4, "[B,T,G,N]");
  const Tensor &x = call.input(kX), &b = call.input(kB);
  const int64_t B = x.shape[0], T = x.shape[1], HV = x.shape[2], G = b.shape[2], N = b.shape[3];
  expectShape(call, kDt, {B, T, HV}, "[B,T,HV]");
  expectShape(call, kA, {HV}, "[HV]");
  expectShape(call, kB, {B, T, G, N}, "[B,T,G,N]");
  expectShape(call, kC, {B, T, G, N}, "[B,T,G,N]");
  if (G < 1 || HV < 1 || HV % G != 0)
    fail(ErrorKind::Range, "B: expected G to divide HV = %lld, got shape %s", static_cast<long long>(HV),
         b.shapeText().c_str());
  const long long most = maxStateDim(call);
  if (N < 1 || N > most)
    fail(ErrorKind::Range, "B: expected N from 1 to %lld, got shape %s", most, b.shapeText().c_str());
  if (x.shape[3] < 1 || x.shape[3] > most)
    fail(ErrorKind::Range, "x: expected P from 1 to %lld, got shape %s", most, x.shapeText().c_str());
  if (call.input(kD).present()) expectShape(call, kD, {HV}, "[HV]");
  if (call.input(kDtBias).present()) expectShape(call, kDtBias, {HV}, "[HV]");
  const Tensor& starts = call.input(kCuSeqlens);
  const int64_t sequences = !starts.present() ? B : starts.shape[0] > 0 ? starts.shape[0] - 1 : 0;
  if (call.input(kInitialState).present())
    expectShape(call, kInitialState, {sequences, HV, N, x.shape[3]}, starts.present() ? "[S,HV,N,P]" : "[B,HV,N,P]");
  for (int input : {kB, kC}) expectDType(call, input, kX);
  expectDType(call, kDt, kX, true);
  const double low = call.number(kDtLimit, 0),
               high = call.number(kDtLimitHigh, std::numeric_limits<double>::infinity());
  if (!(low <= high)) fail(ErrorKind::Range, "dtLimit: expected [min, max] with min <= max, got [%g, %g]", low, high);
  Mamba2Args args{};
  args.rows = B * T;
  args.HV = HV;
  args.P = x.shape[3];
  args.x = FloatView(x);
  args.dt = FloatView(call.input(kDt));
  args.A = call.input(kA).f32();
  args.D = call.input(kD).f32();
  args.dtBias = call.input(kDtBias).f32();
  args.softplus = call.flag(kDtSoftplus);
  args.low = static_cast<float>(low);
  args.high = static_cast<float>(high);
  args.cancel = call.cancel;
  return args;
}

// The recurrence that this call stands for. step and g are bound where they have been computed.
Call gridCall(const OpSpec& spec, const Call& call, const float* step, float* g) {
  using namespace recurrence_inputs;
  Call inner = innerCall(spec, call);
  inner.inputs[kQ] = call.input(kC);
  inner.inputs[kK] = call.input(kB);
  inner.inputs[kV] = call.input(kX);
  inner.valueScale = step;
  inner.inputs[kG] = floatsLike(call.input(kDt), g);
  inner.inputs[recurrence_inputs::kInitialState] = call.input(::rankone::kInitialState);
  inner.inputs[recurrence_inputs::kCuSeqlens] = call.input(::rankone::kCuSeqlens);
  inner.options[recurrence_options::kScale] = {true, 1.0};
  return inner;
}

Call forwardCall(const Call& call, const float* step, float* g) {
  Call inner = gridCall(recurrenceOp, call, step, g);
  inner.inputs[recurrence_inputs::kStateIndices] = call.input(kStateIndices);
  return inner;
}

void plan(Call& call) {
  bindArgs(call);
  Call inner = forwardCall(call, nullptr, nullptr);
  recurrenceOp.plan(inner);
  call.outputs[kOutY] = inner.outputs[recurrence_outputs::kO];
  call.outputs[kOutFinalState] = inner.outputs[recurrence_outputs::kFinalState];
  call.saved = inner.saved;
}

void run(const Call& call) {
  const Mamba2Args args = bindArgs(call);
  const size_t steps = alignFloats(args.rows * args.HV);
  const Tensor& y = call.outputs[kOutY];
  const bool rounds = args.D && y.dtype != DType::F32;  // once, after the skip
  const size_t values = alignFloats(args.rows * args.HV * args.P);
  AlignedBuffer work((2 * steps + (rounds ? values : 0)) * sizeof(float));
  float *step = work.f32(), *g = step + steps;
  mamba2Prepare(args, step, g);
  Call inner = forwardCall(call, step, g);
  Tensor& o = inner.outputs[recurrence_outputs::kO] = y;
  if (rounds) o = floatsLike(y, g + steps);
  inner.outputs[recurrence_outputs::kFinalState] = call.outputs[kOutFinalState];
  recurrenceOp.run(inner);
  if (args.D) mamba2Skip(args, o.f32(), y.data, y.dtype);
}

RankoneMamba2 onDevice(const Mamba2Args& args) {
  return {args.rows, args.HV, args.P,      cuda::floatsOf(args.x), cuda::floatsOf(args.dt),
          args.A,    args.D,  args.dtBias, args.softplus,          args.low,
          args.high};
}

void prepareOnDevice(const Call& call, const RankoneMamba2& args, float* step, float* g) {
  if (args.rows > 0) call.device->run(&RankoneCuda::mamba2Prepare, &args, step, g);
}

void runCuda(const Call& call) {
  const RankoneMamba2 args = onDevice(bindArgs(call));
  const size_t count = static_cast<size_t>(args.rows * args.HV);
  const cuda::Array<float> step(call.device, count), g(call.device, count);
  prepareOnDevice(call, args, step.data(), g.data());
  Call inner = forwardCall(call, step.data(), g.data());
  const Tensor& y = inner.outputs[recurrence_outputs::kO] = call.outputs[kOutY];
  inner.outputs[recurrence_outputs::kFinalState] = call.outputs[kOutFinalState];
  recurrenceOp.runCuda(inner);
  if (args.D && args.rows > 0)
    call.device->run(&RankoneCuda::mamba2Skip, &args, cuda::floatsOf(y), y.data, static_cast<int32_t>(y.dtype));
}

Call backwardCall(const Call& call, const float* step, float* g) {
  Call inner = gridCall(recurrenceBackwardOp, call, step, g);
  inner.inputs[recurrence_inputs::kDO] = call.input(kDY);
  inner.inputs[recurrence_inputs::kDFinalState] = call.input(kDFinalState);
  return inner;
}

void planBackward(Call& call) {
  bindArgs(call);
  const Tensor& x = call.input(kX);
  expectShape(call, kDY, {x.shape[0], x.shape[1], x.shape[2], x.shape[3]}, "[B,T,HV,P]");
  expectDType(call, kDY, kX);
  Call inner = backwardCall(call, nullptr, nullptr);
  recurrenceBackwardOp.plan(inner);
  const auto like = [&](int output, int input) {
    if (!call.input(input).present()) return;
    call.outputs[output] = call.input(input);
    call.outputs[output].data = nullptr;
    call.outputs[output].dtype = gradientDType(call, kGradDtype, call.input(input));
  };
  like(kOutDx, kX);
  like(kOutDdt, kDt);
  like(kOutDA, kA);
  like(kOutDB, kB);
  like(kOutDC, kC);
  like(kOutDD, kD);
  like(kOutDDtBias, kDtBias);
  like(kOutDInitialState, kInitialState);
}

void runBackward(const Call& call) {
  using namespace recurrence_gradients;
  const Mamba2Args args = bindArgs(call);
  const size_t steps = alignFloats(args.rows * args.HV), values = alignFloats(args.rows * args.HV * args.P);
  AlignedBuffer work((3 * steps + values) * sizeof(float));
  float *step = work.f32(), *g = step + steps, *dG = g + steps, *dV = dG + steps;
  mamba2Prepare(args, step, g);
  Call inner = backwardCall(call, step, g);
  GradientBuffers gradients(call);
  inner.outputs[kDQ] = floatsLike(call.input(kC), gradients.f32(kOutDC));
  inner.outputs[kDK] = floatsLike(call.input(kB), gradients.f32(kOutDB));
  inner.outputs[kDV] = floatsLike(call.input(kX), dV);
  inner.outputs[kDG] = floatsLike(call.input(kDt), dG);
  inner.outputs[kDInitialState] = call.outputs[kOutDInitialState];
  inner.options[recurrence_options::kGradDtype] = {};
  recurrenceBackwardOp.run(inner);
  mamba2Gradients(args, {step, FloatView(call.input(kDY)), dV, dG, gradients.f32(kOutDx), gradients.f32(kOutDdt),
                         gradients.f32(kOutDA), gradients.f32(kOutDD), gradients.f32(kOutDDtBias)});
  gradients.finish();
}

void runBackwardCuda(const Call& call) {
  using namespace recurrence_gradients;
  const RankoneMamba2 args = onDevice(bindArgs(call));
  const int64_t steps = args.rows * args.HV;
  cuda::GradientBuffers gradients(call);
  float *step = gradients.scratch(steps), *g = gradients.scratch(steps), *dG = gradients.scratch(steps),
        *dV = gradients.scratch(steps * args.P);
  prepareOnDevice(call, args, step, g);
  Call inner = backwardCall(call, step, g);
  inner.outputs[kDQ] = floatsLike(call.input(kC), gradients.f32(kOutDC));
  inner.outputs[kDK] = floatsLike(call.input(kB), gradients.f32(kOutDB));
  inner.outputs[kDV] = floatsLike(call.input(kX), dV);
  inner.outputs[kDG] = floatsLike(call.input(kDt), dG);
  inner.outputs[kDInitialState] = call.outputs[kOutDInitialState];
  inner.options[recurrence_options::kGradDtype] = {};
  recurrenceBackwardOp.runCuda(inner);
  const RankoneMamba2Gradients to = {step,
                                     cuda::floatsOf(call.input(kDY)),
                                     dV,
                                     dG,
                                     gradients.f32(kOutDx),
                                     gradients.f32(kOutDdt),
                                     gradients.f32(kOutDA),
                                     gradients.f32(kOutDD),
                                     gradients.f32(kOutDDtBias)};
  call.device->run(&RankoneCuda::mamba2Gradients, &args, &to);
  gradients.finish();
}

}  // namespace

extern const OpSpec mamba2Op, mamba2BackwardOp;

const OpSpec mamba2Op = {
    .name = "mamba2",
    .inputs = kInputs,
    .options = kOptions,
    .outputs = kOutputs,
    .plan = plan,
    .run = run,
    .runCuda = runCuda,
    .takesState = true,
    .makesSaved = true,
};

const OpSpec mamba2BackwardOp = {
    .name = "mamba2Backward",
    .inputs = kBackwardInputs,
    .options = kBackwardOptions,
    .outputs = kGradients,
    .plan = planBackward,
    .run = runBackward,
    .runCuda = runBackwardCuda,
    .takesSaved = true,
};

}  // namespace rankone
