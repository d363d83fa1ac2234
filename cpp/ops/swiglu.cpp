// y = silu(gate) * up and its gradients.
#include "kernels/swiglu.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kGate, kUp, kDY };
enum Gradient { kDGate, kDUp };

void plan(Call& call) {
  expectInputs(call);
  expectSameShape(call, kUp, kGate);
  setOutputLike(call, 0, call.input(kGate));
}

void run(const Call& call) {
  const Tensor& gate = call.input(kGate);
  swiglu({gate.f32(), call.input(kUp).f32(), call.outputs[0].f32(), gate.size(), call.cancel});
}

void planBackward(Call& call) {
  expectInputs(call);
  expectSameShape(call, kUp, kGate);
  expectSameShape(call, kDY, kGate);
  setOutputLike(call, kDGate, call.input(kGate));
  setOutputLike(call, kDUp, call.input(kGate));
}

void runBackward(const Call& call) {
  const Tensor& gate = call.input(kGate);
  swigluBackward({gate.f32(), call.input(kUp).f32(), call.input(kDY).f32(), call.outputs[kDGate].f32(),
                  call.outputs[kDUp].f32(), gate.size(), call.cancel});
}

constexpr InputSpec kInputs[] = {{"gate"}, {"up"}};
constexpr InputSpec kBackwardInputs[] = {{"gate"}, {"up"}, {"dY"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dGate"}, {"dUp"}};

}  // namespace

extern const OpSpec swigluOp, swigluBackwardOp;
const OpSpec swigluOp{"swiglu", kInputs, {}, kOutputs, plan, run};
const OpSpec swigluBackwardOp{"swigluBackward", kBackwardInputs, {}, kGradients, planBackward, runBackward};

}  // namespace rankone
