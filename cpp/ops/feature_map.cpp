// featureMap and its gradients: phi(x) of the last dimension.
#include "kernels/feature_map.h"

#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kX, kWeight, kBias, kScale, kDY };
enum Option { kKind, kPower, kEps, kGradDtype };
enum Gradient { kDX, kDWeight, kDBias, kDScale };
constexpr const char* kKinds = "elu1|relu|softmax|hedgehog|hedgehogExp|focused|taylor2";

FeatureKind kindOf(const Call& call) { return static_cast<FeatureKind>(call.integer(kKind, 0) + 1); }

void expectNone(const Call& call, int input, const char* kinds) {
  if (call.input(input).present())
    fail(ErrorKind::Type, "%s: expected none but with kind %s, got one", call.spec->inputs[input].name, kinds);
}

// Checks all but dY.
void check(Call& call) {
  expectInputs(call);
  expectMinRank(call, kX, 1, "[...,K]");
  expectGiven(call, kKind, "the name of a map");
  const Tensor &x = call.input(kX), &weight = call.input(kWeight), &bias = call.input(kBias);
  const int64_t K = x.shape[x.rank - 1];
  const FeatureKind kind = kindOf(call);
  if (K < 1) fail(ErrorKind::Range, "x: expected shape [...,K] with K >= 1, got %s", x.shapeText().c_str());
  if (kind == FeatureKind::Taylor2 && K > kMaxTaylorWidth)
    fail(ErrorKind::Range, "x: expected K up to %lld with kind 'taylor2', got %s",
         static_cast<long long>(kMaxTaylorWidth), x.shapeText().c_str());
  for (int input : {kWeight, kBias, kScale}) expectDType(call, input, kX, true);
  if (!isProjected(kind)) {
    expectNone(call, kWeight, "'hedgehog' or 'hedgehogExp'");
    expectNone(call, kBias, "'hedgehog' or 'hedgehogExp'");
  }
  if (weight.present()) {
    if (weight.rank != 2 && weight.rank != 3) expectRank(call, kWeight, 3, "[H,K,D] or [K,D]");
    const int64_t D = weight.shape[weight.rank - 1];
    if (weight.rank == 2) {
      expectShape(call, kWeight, {K, D}, "[K,D]");
    } else {
      expectMinRank(call, kX, 2, "[...,H,K] beside a weight of every head");
      expectShape(call, kWeight, {x.shape[x.rank - 2], K, D}, "[H,K,D]");
    }
    if (D < 1) fail(ErrorKind::Range, "weight: expected D >= 1, got %s", weight.shapeText().c_str());
  }
  if (bias.present()) {
    if (!weight.present()) fail(ErrorKind::Type, "bias: expected none without weight, got one");
    if (weight.rank == 2)
      expectShape(call, kBias, {weight.shape[1]}, "[D]");
    else
      expectShape(call, kBias, {weight.shape[0], weight.shape[2]}, "[H,D]");
  }
  const bool focused = kind == FeatureKind::Focused;
  if (!focused) {
    expectNone(call, kScale, "'focused'");
    for (int option : {kPower, kEps})
      if (call.options[option].given)
        fail(ErrorKind::Type, "%s: expected none but with kind 'focused', got one", call.spec->options[option].name);
  }
  if (call.input(kScale).present()) expectShape(call, kScale, {K}, "[K]");
  expectInteger(call, kPower, 1, 64);
  expectNotNegative(call, kEps);
}

FeatureForm formOf(const Call& call) {
  const Tensor &x = call.input(kX), &weight = call.input(kWeight);
  FeatureForm form;
  form.kind = kindOf(call);
  form.K = x.shape[x.rank - 1];
  form.D = weight.present() ? weight.shape[weight.rank - 1] : form.K;
  form.power = static_cast<int>(call.integer(kPower, 3));
  form.eps = static_cast<float>(call.number(kEps, 1e-6));
  return form;
}

// x's shape with F features in place of K elements.
Tensor resultOf(const Call& call) {
  Tensor y = call.input(kX);
  y.shape[y.rank - 1] = formOf(call).width();
  return y;
}

FeatureMapArgs argumentsOf(const Call& call) {
  const Tensor &x = call.input(kX), &weight = call.input(kWeight);
  FeatureMapArgs a{};
  a.x = x.data;
  a.weight = weight.data;
  a.bias = call.input(kBias).data;
  a.scale = call.input(kScale).data;
  a.dtype = x.dtype;
  a.weightDType = weight.dtype;
  a.biasDType = call.input(kBias).dtype;
  a.scaleDType = call.input(kScale).dtype;
  // Heads of one map, or without any, are as good as rows.
  a.H = weight.rank == 3 ? weight.shape[0] : 1;
  a.rows = weight.rank == 3 ? outerSize(x, 2) : outerSize(x, 1);
  a.form = formOf(call);
  a.cancel = call.cancel;
  return a;
}

void plan(Call& call) {
  check(call);
  setOutputLike(call, 0, resultOf(call), call.input(kX).dtype);
}

void run(const Call& call) {
  FeatureMapArgs a = argumentsOf(call);
  a.y = call.outputs[0].data;
  featureMap(a);
}

void planBackward(Call& call) {
  check(call);
  expectDType(call, kDY, kX);
  const Tensor expected = resultOf(call);
  if (!call.input(kDY).sameShape(expected))
    fail(ErrorKind::Range, "dY: expected the shape of y = %s, got %s", expected.shapeText().c_str(),
         call.input(kDY).shapeText().c_str());
  for (const auto& [input, output] : {std::pair{kX, kDX}, {kWeight, kDWeight}, {kBias, kDBias}, {kScale, kDScale}}) {
    const Tensor& of = call.input(input);
    if (of.present()) setOutputLike(call, output, of, gradientDType(call, kGradDtype, of));
  }
}

void runBackward(const Call& call) {
  const Tensor &dX = call.outputs[kDX], &dWeight = call.outputs[kDWeight];
  const Tensor &dBias = call.outputs[kDBias], &dScale = call.outputs[kDScale];
  featureMapBackward({argumentsOf(call), call.input(kDY).data, dX.data, dWeight.data, dBias.data, dScale.data, dX.dtype,
                      dWeight.dtype, dBias.dtype, dScale.dtype});
}

constexpr InputSpec kInputs[] = {
    {"x", true, kFloats}, {"weight", false, kFloats}, {"bias", false, kFloats}, {"scale", false, kFloats}};
constexpr InputSpec kBackwardInputs[] = {{"x", true, kFloats},
                                         {"weight", false, kFloats},
                                         {"bias", false, kFloats},
                                         {"scale", false, kFloats},
                                         {"dY", true, kFloats}};
constexpr OptionSpec kOptions[] = {
    {"kind", OptionKind::Choice, kKinds}, {"power", OptionKind::Integer}, {"eps", OptionKind::Number}};
constexpr OptionSpec kBackwardOptions[] = {{"kind", OptionKind::Choice, kKinds},
                                           {"power", OptionKind::Integer},
                                           {"eps", OptionKind::Number},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dWeight"}, {"dBias"}, {"dScale"}};

}  // namespace

extern const OpSpec featureMapOp, featureMapBackwardOp;
const OpSpec featureMapOp{"featureMap", kInputs, kOptions, kOutputs, plan, run};
const OpSpec featureMapBackwardOp{"featureMapBackward", kBackwardInputs, kBackwardOptions,
                                  kGradients,           planBackward,    runBackward};

}  // namespace rankone
