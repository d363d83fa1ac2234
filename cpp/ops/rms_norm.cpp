// rmsNorm and rmsNormGated, and their gradients: y = x / rms(x) * weight [* silu(gate)].
#include "kernels/rms_norm.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Option { kEps };

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
  if (at.gate >= 0) expectSameShape(call, at.gate, kX);
  if (call.input(at.weight).present()) expectShape(call, at.weight, {D}, "[D]");
  expectNotNegative(call, kEps);
}

const float* optional(const Call& call, int input) {
  return input >= 0 && call.input(input).present() ? call.input(input).f32() : nullptr;
}

template <const Places& at>
void plan(Call& call) {
  check(call, at);
  setOutputLike(call, 0, call.input(kX));
}

template <const Places& at>
void run(const Call& call) {
  const Tensor& x = call.input(kX);
  rmsNorm({x.f32(), optional(call, at.gate), optional(call, at.weight), call.outputs[0].f32(), outerSize(x, 1),
           x.shape[x.rank - 1], call.number(kEps, 1e-6), call.cancel});
}

template <const Places& at>
void planBackward(Call& call) {
  check(call, at);
  expectSameShape(call, at.dY, kX);
  setOutputLike(call, kDX, call.input(kX));
  if (at.dGate >= 0) setOutputLike(call, at.dGate, call.input(kX));
  if (call.input(at.weight).present()) setOutputLike(call, at.dWeight, call.input(at.weight));
}

template <const Places& at>
void runBackward(const Call& call) {
  const Tensor& x = call.input(kX);
  const Tensor& dWeight = call.outputs[at.dWeight];
  rmsNormBackward({x.f32(), optional(call, at.gate), optional(call, at.weight), call.input(at.dY).f32(),
                   call.outputs[kDX].f32(), at.dGate >= 0 ? call.outputs[at.dGate].f32() : nullptr,
                   dWeight.present() ? dWeight.f32() : nullptr, outerSize(x, 1), x.shape[x.rank - 1],
                   call.number(kEps, 1e-6), call.cancel});
}

constexpr InputSpec kInputs[] = {{"x"}, {"weight", false}};
constexpr InputSpec kBackwardInputs[] = {{"x"}, {"weight", false}, {"dY"}};
constexpr InputSpec kGatedInputs[] = {{"x"}, {"gate"}, {"weight", false}};
constexpr InputSpec kGatedBackwardInputs[] = {{"x"}, {"gate"}, {"weight", false}, {"dY"}};
constexpr OptionSpec kOptions[] = {{"eps", OptionKind::Number}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dWeight"}};
constexpr OutputSpec kGatedGradients[] = {{"dx"}, {"dGate"}, {"dWeight"}};

}  // namespace

extern const OpSpec rmsNormOp, rmsNormBackwardOp, rmsNormGatedOp, rmsNormGatedBackwardOp;
const OpSpec rmsNormOp{"rmsNorm", kInputs, kOptions, kOutputs, plan<kPlain>, run<kPlain>};
const OpSpec rmsNormBackwardOp{"rmsNormBackward", kBackwardInputs,      kOptions,
                               kGradients,        planBackward<kPlain>, runBackward<kPlain>};
const OpSpec rmsNormGatedOp{"rmsNormGated", kGatedInputs, kOptions, kOutputs, plan<kGated>, run<kGated>};
const OpSpec rmsNormGatedBackwardOp{"rmsNormGatedBackward", kGatedBackwardInputs, kOptions,
                                    kGatedGradients,        planBackward<kGated>, runBackward<kGated>};

}  // namespace rankone
