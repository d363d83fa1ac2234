// One step of the AdamW optimiser on param, m and v in place.
#include "kernels/adam_w.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kParam, kGrad, kM, kV };
enum Option { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kStep };

void expectBeta(const Call& call, int option) {
  const OptionValue& v = call.options[option];
  if (v.given && !(v.value >= 0 && v.value < 1))
    fail(ErrorKind::Range, "%s: expected a number in [0, 1), got %g", call.spec->options[option].name, v.value);
}

void plan(Call& call) {
  expectInputs(call);
  for (int i : {kGrad, kM, kV}) expectSameShape(call, i, kParam);
  for (int i : {kLr, kStep})
    if (!call.options[i].given) fail(ErrorKind::Type, "%s: expected a number, got none", call.spec->options[i].name);
  for (int i : {kLr, kEps, kWeightDecay}) expectNotNegative(call, i);
  expectBeta(call, kBeta1);
  expectBeta(call, kBeta2);
  expectInteger(call, kStep, 1, int64_t{1} << 52);
}

void run(const Call& call) {
  const double lr = call.number(kLr, 0), beta1 = call.number(kBeta1, 0.9), beta2 = call.number(kBeta2, 0.999);
  const double step = call.number(kStep, 1);
  AdamWArgs a;
  a.param = call.input(kParam).f32();
  a.grad = call.input(kGrad).data;
  a.gradDType = call.input(kGrad).dtype;
  a.m = call.input(kM).f32();
  a.v = call.input(kV).f32();
  a.size = call.input(kParam).size();
  a.keep = static_cast<float>(1 - lr * call.number(kWeightDecay, 0.01));
  a.stepSize = static_cast<float>(lr / (1 - std::pow(beta1, step)));
  a.mRate = static_cast<float>(1 - beta1);
  a.beta2 = static_cast<float>(beta2);
  a.vRate = static_cast<float>(1 - beta2);
  a.rootScale = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, step)));
  a.eps = static_cast<float>(call.number(kEps, 1e-8));
  a.cancel = call.cancel;
  adamW(a);
}

constexpr InputSpec kInputs[] = {{"param", true, kF32, Access::Update},
                                 {"grad", true, kFloats},
                                 {"m", true, kF32, Access::Update},
                                 {"v", true, kF32, Access::Update}};
constexpr OptionSpec kOptions[] = {{"lr", OptionKind::Number},          {"beta1", OptionKind::Number},
                                   {"beta2", OptionKind::Number},       {"eps", OptionKind::Number},
                                   {"weightDecay", OptionKind::Number}, {"step", OptionKind::Integer}};

}  // namespace

extern const OpSpec adamWOp;
const OpSpec adamWOp{"adamW", kInputs, kOptions, {}, plan, run};

}  // namespace rankone
