// bidirectionalLinearAttention: linear attention in which every query sees every key of its sequence; and its
// gradients.
#include <cmath>

#include "kernels/bidirectional_attention.h"
#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kQ, kK, kV, kAlpha, kModulate, kQWeight, kKWeight, kCuSeqlens, kCuSeqlensK, kDO };
enum Option { kFeatureMap, kPower, kNormalize, kRankAugmented, kScale, kEps, kGradDtype };
enum Gradient { kDq, kDk, kDv, kDAlpha, kDModulate, kDQWeight, kDKWeight };
constexpr const char* kMaps = "none|elu1|relu|softmax|hedgehog|hedgehogExp|focused|taylor2";

long long text(int64_t n) { return static_cast<long long>(n); }

struct Problem {
  BidirectionalArgs args{};
  int64_t B = 0, T = 0, S = 0, N = 0;  // N: sequences
  std::vector<BidirectionalSequence> sequences;
};

void bindSizes(const Call& call, Problem& p) {
  const Tensor &q = call.input(kQ), &k = call.input(kK), &v = call.input(kV);
  expectRank(call, kQ, 4, "[B,T,H,K]");
  expectRank(call, kK, 4, "[B,S,HKV,K]");
  expectRank(call, kV, 4, "[B,S,HKV,V]");
  BidirectionalArgs& a = p.args;
  p.B = q.shape[0];
  p.T = q.shape[1];
  p.S = k.shape[1];
  a.H = q.shape[2];
  a.K = q.shape[3];
  a.HKV = k.shape[2];
  a.V = v.shape[3];
  expectShape(call, kK, {p.B, p.S, a.HKV, a.K}, "[B,S,HKV,K]");
  expectShape(call, kV, {p.B, p.S, a.HKV, a.V}, "[B,S,HKV,V]");
  for (int input : {kQ, kV})
    if (call.input(input).shape[3] < 1)
      fail(ErrorKind::Range, "%s: expected a head size of 1 or more, got shape %s", call.spec->inputs[input].name,
           call.input(input).shapeText().c_str());
  if (a.H < 1) fail(ErrorKind::Range, "q: expected at least one head, got shape %s", q.shapeText().c_str());
  if (a.HKV < 1 || a.H % a.HKV != 0)
    fail(ErrorKind::Range, "k: expected HKV to be a divisor of H = %lld, got shape %s", text(a.H),
         k.shapeText().c_str());
  for (int input : {kK, kV}) expectDType(call, input, kQ);
  for (int input : {kAlpha, kModulate, kQWeight, kKWeight}) expectDType(call, input, kQ, true);
  if (call.input(kAlpha).present()) expectShape(call, kAlpha, {p.B, p.S, a.HKV}, "[B,S,HKV]");
  if (call.input(kModulate).present()) expectShape(call, kModulate, {p.B, p.T, a.H, a.V}, "[B,T,H,V]");
}

void bindWeights(const Call& call, BidirectionalArgs& a) {
  const Tensor &q = call.input(kQWeight), &k = call.input(kKWeight);
  for (int input : {kQWeight, kKWeight})
    if (call.input(input).present() && !isProjected(a.form.kind))
      fail(ErrorKind::Type, "%s: expected none but with featureMap 'hedgehog' or 'hedgehogExp', got one",
           call.spec->inputs[input].name);
  a.form.D = a.K;
  if (q.present() != k.present())
    fail(ErrorKind::Type, "%s: expected one beside %s, got none", q.present() ? "kWeight" : "qWeight",
         q.present() ? "qWeight" : "kWeight");
  if (!q.present()) return;
  if (q.rank != 2 && q.rank != 3) expectRank(call, kQWeight, 3, "[H,K,D] or [K,D]");
  a.sharedWeights = q.rank == 2;
  a.form.D = q.shape[q.rank - 1];
  if (a.form.D < 1) fail(ErrorKind::Range, "qWeight: expected D >= 1, got %s", q.shapeText().c_str());
  for (int input : {kQWeight, kKWeight}) {
    if (a.sharedWeights)
      expectShape(call, input, {a.K, a.form.D}, "[K,D]");
    else if (input == kQWeight)
      expectShape(call, input, {a.H, a.K, a.form.D}, "[H,K,D]");
    else
      expectShape(call, input, {a.HKV, a.K, a.form.D}, "[HKV,K,D]");
  }
}

void bindOptions(const Call& call, Problem& p) {
  BidirectionalArgs& a = p.args;
  a.form.kind = static_cast<FeatureKind>(call.integer(kFeatureMap, 0));
  a.form.K = a.K;
  expectInteger(call, kPower, 1, 64);
  if (call.options[kPower].given && a.form.kind != FeatureKind::Focused)
    fail(ErrorKind::Type, "power: expected none but with featureMap 'focused', got one");
  a.form.power = static_cast<int>(call.integer(kPower, 3));
  bindWeights(call, a);
  if (a.form.kind == FeatureKind::Taylor2 && a.K > kMaxTaylorWidth)
    fail(ErrorKind::Range, "q: expected K up to %lld with featureMap 'taylor2', got shape %s", text(kMaxTaylorWidth),
         call.input(kQ).shapeText().c_str());
  expectFinite(call, kScale);
  expectNotNegative(call, kEps);
  a.scale = static_cast<float>(call.number(kScale, 1));
  a.eps = static_cast<float>(call.number(kEps, 1e-6));
  a.normalize = call.flag(kNormalize, true);
  a.rankAugmented = call.flag(kRankAugmented);
  if (!a.normalize && call.options[kEps].given) fail(ErrorKind::Type, "eps: expected none without normalize, got one");
  if (a.rankAugmented && call.input(kAlpha).present())
    fail(ErrorKind::Type, "alpha: expected none beside rankAugmented, which makes them, got one");
  expectCountable("v", {a.form.width(), a.V, a.H, std::max<int64_t>(1, p.B)});
}

void bindSequences(const Call& call, Problem& p) {
  const bool packed = call.input(kCuSeqlens).present(), packedK = call.input(kCuSeqlensK).present();
  if (packedK && !packed) fail(ErrorKind::Type, "cuSeqlensK: expected cuSeqlens beside it, got none");
  p.args.keyTokens = p.B * p.S;
  if (!packed) {
    if (p.T == 0 && p.S == 0) return;  // however many there are
    for (int64_t b = 0; b < p.B; ++b) p.sequences.push_back({b * p.T, p.T, b * p.S, p.S});
    return;
  }
  p.N = expectStarts(call, kCuSeqlens, p.B, p.T);
  if (packedK) {
    expectShape(call, kCuSeqlensK, {p.N + 1}, "[N+1]");
    expectStarts(call, kCuSeqlensK, p.B, p.S, "S");
  } else if (p.S != p.T) {
    fail(ErrorKind::Range, "k: expected S = T = %lld without cuSeqlensK, got shape %s", text(p.T),
         call.input(kK).shapeText().c_str());
  }
  const IndexView at(call.input(kCuSeqlens)), atK(call.input(packedK ? kCuSeqlensK : kCuSeqlens));
  for (int64_t i = 0; i < p.N; ++i)
    if (at[i + 1] > at[i] || atK[i + 1] > atK[i])
      p.sequences.push_back({at[i], at[i + 1] - at[i], atK[i], atK[i + 1] - atK[i]});
}

std::shared_ptr<Problem> bind(const Call& call) {
  expectInputs(call);
  auto p = std::make_shared<Problem>();
  bindSizes(call, *p);
  bindOptions(call, *p);
  bindSequences(call, *p);
  return p;
}

// The tensors, once their memory is known.
BidirectionalArgs argsOf(const Call& call) {
  const Problem& p = *static_cast<const Problem*>(call.planned.get());
  BidirectionalArgs a = p.args;
  a.q = call.input(kQ).data;
  a.k = call.input(kK).data;
  a.v = call.input(kV).data;
  const auto view = [&](int input) { return call.input(input).present() ? FloatView(call.input(input)) : FloatView(); };
  a.alpha = view(kAlpha);
  a.modulate = view(kModulate);
  a.qWeight = view(kQWeight);
  a.kWeight = view(kKWeight);
  a.dtype = call.input(kQ).dtype;
  a.sequences = &p.sequences;
  a.cancel = call.cancel;
  return a;
}

void plan(Call& call) {
  const auto p = bind(call);
  setOutput(call, 0, {p->B, p->T, p->args.H, p->args.V}, call.input(kQ).dtype);
  call.planned = p;
}

void run(const Call& call) {
  BidirectionalArgs a = argsOf(call);
  a.o = call.outputs[0].data;
  a.oDType = call.outputs[0].dtype;
  bidirectionalAttention(a);
}

constexpr std::pair<Input, Gradient> kGradientOf[] = {{kQ, kDq},
                                                      {kK, kDk},
                                                      {kV, kDv},
                                                      {kAlpha, kDAlpha},
                                                      {kModulate, kDModulate},
                                                      {kQWeight, kDQWeight},
                                                      {kKWeight, kDKWeight}};

void planBackward(Call& call) {
  const auto p = bind(call);
  expectDType(call, kDO, kQ);
  expectShape(call, kDO, {p->B, p->T, p->args.H, p->args.V}, "[B,T,H,V]");
  for (const auto& [input, gradient] : kGradientOf) {
    const Tensor& of = call.input(input);
    if (of.present()) setOutputLike(call, gradient, of, gradientDType(call, kGradDtype, of));
  }
  call.planned = p;
}

void runBackward(const Call& call) {
  const auto memory = [&](Gradient g) { return call.outputs[g].present() ? call.outputs[g].data : nullptr; };
  const auto dtype = [&](Gradient g) { return call.outputs[g].dtype; };
  BidirectionalBackwardArgs b{};
  b.forward = argsOf(call);
  b.dO = call.input(kDO).data;
  b.dq = memory(kDq);
  b.dk = memory(kDk);
  b.dv = memory(kDv);
  b.dAlpha = memory(kDAlpha);
  b.dModulate = memory(kDModulate);
  b.dQWeight = memory(kDQWeight);
  b.dKWeight = memory(kDKWeight);
  b.gradDType = dtype(kDq);
  b.dAlphaDType = dtype(kDAlpha);
  b.dModulateDType = dtype(kDModulate);
  b.dQWeightDType = dtype(kDQWeight);
  b.dKWeightDType = dtype(kDKWeight);
  bidirectionalAttentionBackward(b);
}

constexpr InputSpec kInputs[] = {{"q", true, kFloats},
                                 {"k", true, kFloats},
                                 {"v", true, kFloats},
                                 {"alpha", false, kFloats},
                                 {"modulate", false, kFloats},
                                 {"qWeight", false, kFloats},
                                 {"kWeight", false, kFloats},
                                 {"cuSeqlens", false, kIndices, Access::Read, ""},
                                 {"cuSeqlensK", false, kIndices, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {{"q", true, kFloats},
                                         {"k", true, kFloats},
                                         {"v", true, kFloats},
                                         {"alpha", false, kFloats},
                                         {"modulate", false, kFloats},
                                         {"qWeight", false, kFloats},
                                         {"kWeight", false, kFloats},
                                         {"cuSeqlens", false, kIndices, Access::Read, ""},
                                         {"cuSeqlensK", false, kIndices, Access::Read, ""},
                                         {"dO", true, kFloats}};
constexpr OptionSpec kOptions[] = {
    {"featureMap", OptionKind::Choice, kMaps}, {"power", OptionKind::Integer}, {"normalize", OptionKind::Flag},
    {"rankAugmented", OptionKind::Flag},       {"scale", OptionKind::Number},  {"eps", OptionKind::Number}};
constexpr OptionSpec kBackwardOptions[] = {
    {"featureMap", OptionKind::Choice, kMaps},     {"power", OptionKind::Integer}, {"normalize", OptionKind::Flag},
    {"rankAugmented", OptionKind::Flag},           {"scale", OptionKind::Number},  {"eps", OptionKind::Number},
    {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}};
constexpr OutputSpec kGradients[] = {{"dq"}, {"dk"}, {"dv"}, {"dAlpha"}, {"dModulate"}, {"dQWeight"}, {"dKWeight"}};

}  // namespace

extern const OpSpec bidirectionalLinearAttentionOp, bidirectionalLinearAttentionBackwardOp;
const OpSpec bidirectionalLinearAttentionOp{"bidirectionalLinearAttention", kInputs, kOptions, kOutputs, plan, run};
const OpSpec bidirectionalLinearAttentionBackwardOp{
    "bidirectionalLinearAttentionBackward", kBackwardInputs, kBackwardOptions, kGradients, planBackward, runBackward};

}  // namespace rankone
