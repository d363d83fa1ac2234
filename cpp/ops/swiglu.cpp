// y = silu(gate) * up and its gradients.
#include "kernels/swiglu.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kGate, kUp, kDY };
enum Gradient { kDGate, kDUp };
enum BackwardOption { kGradDtype };

void check(const Call& call) {
  expectInputs(call);
  expectDType(call, kUp, kGate);
  expectSameShape(call, kUp, kGate);
}

void plan(Call& call) {
  check(call);
  setOutputLike(call, 0, call.input(kGate), call.input(kGate).dtype);
}

void run(const Call& call) {
  const Tensor& gate = call.input(kGate);
  swiglu({gate.data, call.input(kUp).data, call.outputs[0].data, gate.dtype, gate.size(), call.cancel});
}

void planBackward(Call& call) {
  check(call);
  expectDType(call, kDY, kGate);
  expectSameShape(call, kDY, kGate);
  const Tensor& gate = call.input(kGate);
  for (int gradient : {kDGate, kDUp}) setOutputLike(call, gradient, gate, gradientDType(call, kGradDtype, gate));
}

void runBackward(const Call& call) {
  const Tensor& gate = call.input(kGate);
  swigluBackward({gate.data, call.input(kUp).data, call.input(kDY).data, call.outputs[kDGate].data,
                  call.outputs[kDUp].data, gate.dtype, call.outputs[kDGate].dtype, gate.size(), call.cancel});
}

constexpr InputSpec kInputs[] = {{"gate", true, kFloats}, {"up", true, kFloats}};
constexpr InputSpec kBackwardInputs[] = {{"gate", true, kFloats}, {"up", true, kFloats}, {"dY", true, kFloats}};
constexpr OptionSpec kBackwardOptions[] = {{"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dGate"}, {"dUp"}};

}  // namespace

extern const OpSpec swigluOp, swigluBackwardOp;
const OpSpec swigluOp{"swiglu", kInputs, {}, kOutputs, plan, run};
const OpSpec swigluBackwardOp{"swigluBackward", kBackwardInputs, kBackwardOptions,
                              kGradients,       planBackward,    runBackward};

}  // namespace rankone
