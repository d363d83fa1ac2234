// Mean cross entropy of logits [...,V] against class indices, and its gradient.
#include "kernels/cross_entropy.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kLogits, kTargets, kDLoss };
enum Option { kIgnoreIndex, kGradDtype };
enum Output { kLoss, kLosses };

constexpr int64_t kDefaultIgnore = -100;

void check(const Call& call) {
  expectInputs(call);
  expectMinRank(call, kLogits, 1, "[...,V]");
  const Tensor &logits = call.input(kLogits), &targets = call.input(kTargets);
  bool fits = targets.rank == logits.rank - 1;
  for (int i = 0; fits && i < targets.rank; ++i) fits = targets.shape[i] == logits.shape[i];
  if (!fits)
    fail(ErrorKind::Range, "targets: expected the shape of logits %s without its last dimension, got %s",
         logits.shapeText().c_str(), targets.shapeText().c_str());
  expectInteger(call, kIgnoreIndex, -(int64_t{1} << 31), (int64_t{1} << 31) - 1);
  const int64_t ignore = call.integer(kIgnoreIndex, kDefaultIgnore), V = logits.shape[logits.rank - 1];
  const int32_t* t = targets.as<int32_t>();
  const int64_t count = targets.size();
  for (int64_t i = 0; i < count; ++i)
    if (t[i] != ignore && (t[i] < 0 || t[i] >= V))
      fail(ErrorKind::Range, "targets: expected classes from 0 to %lld or ignoreIndex = %lld, got %d at position %lld",
           static_cast<long long>(V - 1), static_cast<long long>(ignore), t[i], static_cast<long long>(i));
}

void plan(Call& call) {
  check(call);
  setOutput(call, kLoss, {});
  setOutputLike(call, kLosses, call.input(kTargets));
}

void run(const Call& call) {
  const Tensor &logits = call.input(kLogits), &targets = call.input(kTargets);
  crossEntropy({logits.data, logits.dtype, targets.as<int32_t>(), call.outputs[kLoss].f32(),
                call.outputs[kLosses].f32(), targets.size(), logits.shape[logits.rank - 1],
                call.integer(kIgnoreIndex, kDefaultIgnore), call.cancel});
}

void planBackward(Call& call) {
  check(call);
  if (call.input(kDLoss).present()) expectShape(call, kDLoss, {}, "[]");
  const Tensor& logits = call.input(kLogits);
  setOutputLike(call, 0, logits, gradientDType(call, kGradDtype, logits));
}

void runBackward(const Call& call) {
  const Tensor &logits = call.input(kLogits), &targets = call.input(kTargets), &dLoss = call.input(kDLoss);
  const Tensor& dLogits = call.outputs[0];
  crossEntropyBackward({logits.data, targets.as<int32_t>(), dLogits.data, logits.dtype, dLogits.dtype,
                        dLoss.present() ? static_cast<double>(*dLoss.f32()) : 1.0, targets.size(),
                        logits.shape[logits.rank - 1], call.integer(kIgnoreIndex, kDefaultIgnore), call.cancel});
}

constexpr InputSpec kInputs[] = {{"logits", true, kFloats}, {"targets", true, kI32}};
constexpr InputSpec kBackwardInputs[] = {{"logits", true, kFloats}, {"targets", true, kI32}, {"dLoss", false}};
constexpr OptionSpec kOptions[] = {{"ignoreIndex", OptionKind::Integer}};
constexpr OptionSpec kBackwardOptions[] = {{"ignoreIndex", OptionKind::Integer},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"loss"}, {"losses"}};
constexpr OutputSpec kGradients[] = {{"dLogits"}};

}  // namespace

extern const OpSpec crossEntropyOp, crossEntropyBackwardOp;
const OpSpec crossEntropyOp{"crossEntropy", kInputs, kOptions, kOutputs, plan, run};
const OpSpec crossEntropyBackwardOp{"crossEntropyBackward", kBackwardInputs, kBackwardOptions, kGradients,
                                    planBackward,           runBackward};

}  // namespace rankone
