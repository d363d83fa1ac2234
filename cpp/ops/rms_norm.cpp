// rmsNorm and rmsNormGated, and their gradients: y = x / rms(x) * weight [* silu(gate)].
#include "kernels/rms_norm.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Option { kEps, kGradDtype };

// Where the arguments stand in the spec of each of the two ops; the gate is absent from the plain one.
struct Places {
  int gate, weight, dY;
  int dGate, dWeight;
};
constexpr int kX = 0, kDX = 0;
constexpr Places kPlain{-1, 1, 2, -1, 1}, kGated{1, 2, 3, 1, 2};

void check(Call& call, const Places& at) {
  expectInputs(call);
  expectMinRank(call, kX, 1, "[...,D]");
  const Tensor& x = call.input(kX);
  const int64_t D = x.shape[x.rank - 1];
  if (D < 1) fail(ErrorKind::Range, "x: expected shape [...,D] with D >= 1, got %s", x.shapeText().c_str());
  if (at.gate >= 0) {
    expectDType(call, at.gate, kX);
    expectSameShape(call, at.gate, kX);
  }
  expectDType(call, at.weight, kX, true);
  if (call.input(at.weight).present()) expectShape(call, at.weight, {D}, "[D]");
  expectNotNegative(call, kEps);
}

const void* optional(const Call& call, int input) { return input >= 0 ? call.input(input).data : nullptr; }

template <const Places& at>
void plan(Call& call) {
  check(call, at);
  setOutputLike(call, 0, call.input(kX), call.input(kX).dtype);
}

template <const Places& at>
void run(const Call& call) {
  const Tensor &x = call.input(kX), &weight = call.input(at.weight);
  rmsNorm({x.data, optional(call, at.gate), weight.data, call.outputs[0].data, x.dtype, weight.dtype, outerSize(x, 1),
           x.shape[x.rank - 1], call.number(kEps, 1e-6), call.cancel});
}

template <const Places& at>
void planBackward(Call& call) {
  check(call, at);
  expectDType(call, at.dY, kX);
  expectSameShape(call, at.dY, kX);
  const Tensor &x = call.input(kX), &weight = call.input(at.weight);
  setOutputLike(call, kDX, x, gradientDType(call, kGradDtype, x));
  if (at.dGate >= 0) setOutputLike(call, at.dGate, x, gradientDType(call, kGradDtype, x));
  if (weight.present()) setOutputLike(call, at.dWeight, weight, gradientDType(call, kGradDtype, weight));
}

template <const Places& at>
void runBackward(const Call& call) {
  const Tensor &x = call.input(kX), &weight = call.input(at.weight);
  const Tensor &dX = call.outputs[kDX], &dWeight = call.outputs[at.dWeight];
  rmsNormBackward({x.data, optional(call, at.gate), weight.data, call.input(at.dY).data, dX.data,
                   at.dGate >= 0 ? call.outputs[at.dGate].data : nullptr, dWeight.present() ? dWeight.data : nullptr,
                   x.dtype, weight.dtype, dX.dtype, dWeight.dtype, outerSize(x, 1), x.shape[x.rank - 1],
                   call.number(kEps, 1e-6), call.cancel});
}

constexpr InputSpec kInputs[] = {{"x", true, kFloats}, {"weight", false, kFloats}};
constexpr InputSpec kBackwardInputs[] = {{"x", true, kFloats}, {"weight", false, kFloats}, {"dY", true, kFloats}};
constexpr InputSpec kGatedInputs[] = {{"x", true, kFloats}, {"gate", true, kFloats}, {"weight", false, kFloats}};
constexpr InputSpec kGatedBackwardInputs[] = {
    {"x", true, kFloats}, {"gate", true, kFloats}, {"weight", false, kFloats}, {"dY", true, kFloats}};
constexpr OptionSpec kOptions[] = {{"eps", OptionKind::Number}};
constexpr OptionSpec kBackwardOptions[] = {{"eps", OptionKind::Number}, {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dWeight"}};
constexpr OutputSpec kGatedGradients[] = {{"dx"}, {"dGate"}, {"dWeight"}};

}  // namespace

extern const OpSpec rmsNormOp, rmsNormBackwardOp, rmsNormGatedOp, rmsNormGatedBackwardOp;
const OpSpec rmsNormOp{"rmsNorm", kInputs, kOptions, kOutputs, plan<kPlain>, run<kPlain>};
const OpSpec rmsNormBackwardOp{"rmsNormBackward", kBackwardInputs,      kBackwardOptions,
                               kGradients,        planBackward<kPlain>, runBackward<kPlain>};
const OpSpec rmsNormGatedOp{"rmsNormGated", kGatedInputs, kOptions, kOutputs, plan<kGated>, run<kGated>};
const OpSpec rmsNormGatedBackwardOp{"rmsNormGatedBackward", kGatedBackwardInputs, kBackwardOptions,
                                    kGatedGradients,        planBackward<kGated>, runBackward<kGated>};

}  // namespace rankone
