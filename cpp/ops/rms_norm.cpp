// rmsNorm and rmsNormGated, and their gradients: y = x / rms(x) * weight [* act(gate)], or x * act(gate) in place of x;
// l2norm and its gradient: y = x / |x|.
#include "kernels/rms_norm.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

// Where the arguments and options stand in the spec of each of the ops; -1: it has none of these.
struct Places {
  int gate, weight, dY;
  int dGate, dWeight;
  int activation, normBeforeGate, gradDtype;
  bool l2 = false;
};
constexpr int kX = 0, kDX = 0, kEps = 0;
constexpr Places kPlain{-1, 1, 2, -1, 1, -1, -1, 1}, kGated{1, 2, 3, 1, 2, 1, 2, 3};
constexpr Places kL2{-1, -1, 1, -1, -1, -1, -1, 1, true};

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
  if (at.weight >= 0) expectDType(call, at.weight, kX, true);
  if (at.weight >= 0 && call.input(at.weight).present()) expectShape(call, at.weight, {D}, "[D]");
  expectNotNegative(call, kEps);
}

const Tensor kAbsent;
const Tensor& optional(const Call& call, int input) { return input >= 0 ? call.input(input) : kAbsent; }
const Tensor& optionalOutput(const Call& call, int output) { return output >= 0 ? call.outputs[output] : kAbsent; }

NormForm formOf(const Call& call, const Places& at) {
  NormForm form;
  form.l2 = at.l2;
  form.sigmoid = at.activation >= 0 && call.integer(at.activation, 0) == 1;
  form.gateFirst = at.normBeforeGate >= 0 && !call.flag(at.normBeforeGate, true);
  return form;
}

template <const Places& at>
void plan(Call& call) {
  check(call, at);
  setOutputLike(call, 0, call.input(kX), call.input(kX).dtype);
}

template <const Places& at>
void run(const Call& call) {
  const Tensor &x = call.input(kX), &weight = optional(call, at.weight);
  rmsNorm({x.data, optional(call, at.gate).data, weight.data, call.outputs[0].data, x.dtype, weight.dtype,
           outerSize(x, 1), x.shape[x.rank - 1], call.number(kEps, 1e-6), formOf(call, at), call.cancel});
}

template <const Places& at>
void planBackward(Call& call) {
  check(call, at);
  expectDType(call, at.dY, kX);
  expectSameShape(call, at.dY, kX);
  const Tensor &x = call.input(kX), &weight = optional(call, at.weight);
  setOutputLike(call, kDX, x, gradientDType(call, at.gradDtype, x));
  if (at.dGate >= 0) setOutputLike(call, at.dGate, x, gradientDType(call, at.gradDtype, x));
  if (weight.present()) setOutputLike(call, at.dWeight, weight, gradientDType(call, at.gradDtype, weight));
}

template <const Places& at>
void runBackward(const Call& call) {
  const Tensor &x = call.input(kX), &weight = optional(call, at.weight);
  const Tensor &dX = call.outputs[kDX], &dWeight = optionalOutput(call, at.dWeight);
  rmsNormBackward({x.data, optional(call, at.gate).data, weight.data, call.input(at.dY).data, dX.data,
                   optionalOutput(call, at.dGate).data, dWeight.present() ? dWeight.data : nullptr, x.dtype,
                   weight.dtype, dX.dtype, dWeight.dtype, outerSize(x, 1), x.shape[x.rank - 1], call.number(kEps, 1e-6),
                   formOf(call, at), call.cancel});
}

constexpr InputSpec kInputs[] = {{"x", true, kFloats}, {"weight", false, kFloats}};
constexpr InputSpec kBackwardInputs[] = {{"x", true, kFloats}, {"weight", false, kFloats}, {"dY", true, kFloats}};
constexpr InputSpec kGatedInputs[] = {{"x", true, kFloats}, {"gate", true, kFloats}, {"weight", false, kFloats}};
constexpr InputSpec kGatedBackwardInputs[] = {
    {"x", true, kFloats}, {"gate", true, kFloats}, {"weight", false, kFloats}, {"dY", true, kFloats}};
constexpr InputSpec kL2Inputs[] = {{"x", true, kFloats}};
constexpr InputSpec kL2BackwardInputs[] = {{"x", true, kFloats}, {"dY", true, kFloats}};
constexpr OptionSpec kOptions[] = {{"eps", OptionKind::Number}};
constexpr OptionSpec kGatedOptions[] = {{"eps", OptionKind::Number},
                                        {"activation", OptionKind::Choice, "silu|sigmoid"},
                                        {"normBeforeGate", OptionKind::Flag}};
constexpr OptionSpec kGatedBackwardOptions[] = {{"eps", OptionKind::Number},
                                                {"activation", OptionKind::Choice, "silu|sigmoid"},
                                                {"normBeforeGate", OptionKind::Flag},
                                                {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OptionSpec kBackwardOptions[] = {{"eps", OptionKind::Number}, {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dWeight"}};
constexpr OutputSpec kL2Gradients[] = {{"dx"}};
constexpr OutputSpec kGatedGradients[] = {{"dx"}, {"dGate"}, {"dWeight"}};

}  // namespace

extern const OpSpec rmsNormOp, rmsNormBackwardOp, rmsNormGatedOp, rmsNormGatedBackwardOp;
const OpSpec rmsNormOp{"rmsNorm", kInputs, kOptions, kOutputs, plan<kPlain>, run<kPlain>};
const OpSpec rmsNormBackwardOp{"rmsNormBackward", kBackwardInputs,      kBackwardOptions,
                               kGradients,        planBackward<kPlain>, runBackward<kPlain>};
const OpSpec rmsNormGatedOp{"rmsNormGated", kGatedInputs, kGatedOptions, kOutputs, plan<kGated>, run<kGated>};
const OpSpec rmsNormGatedBackwardOp{"rmsNormGatedBackward", kGatedBackwardInputs, kGatedBackwardOptions,
                                    kGatedGradients,        planBackward<kGated>, runBackward<kGated>};

extern const OpSpec l2normOp, l2normBackwardOp;
const OpSpec l2normOp{"l2norm", kL2Inputs, kOptions, kOutputs, plan<kL2>, run<kL2>};
const OpSpec l2normBackwardOp{"l2normBackward", kL2BackwardInputs, kBackwardOptions,
                              kL2Gradients,     planBackward<kL2>, runBackward<kL2>};

}  // namespace rankone
