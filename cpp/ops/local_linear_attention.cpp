// Local linear attention over tensors or over the keys and values of a cache, and its gradients.
#include "kernels/local_linear.h"
#include "ops/attention_problem.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kQ, kK, kV, kLambda, kCuSeqlens, kCuSeqlensK, kStateIndices };
enum BackwardInput { kDO = kStateIndices, kSolution };
enum Option {
  kCausal,
  kWindow,
  kWindowRight,
  kSinkTokens,
  kScale,
  kTolerance,
  kMaxIterations,
  kOutputResidual,
  kOutputSolution
};
enum BackwardOption { kGradDtype = kOutputSolution };
enum Output { kOutO, kOutSolution, kOutResidual };
enum Gradient { kDq, kDk, kDv, kDLambda, kGradResidual };

constexpr double kUsualTolerance = 1e-6;

constexpr AttentionArguments kArguments{.q = kQ,
                                        .k = kK,
                                        .v = kV,
                                        .cuSeqlens = kCuSeqlens,
                                        .cuSeqlensK = kCuSeqlensK,
                                        .stateIndices = kStateIndices,
                                        .causal = kCausal,
                                        .window = kWindow,
                                        .windowRight = kWindowRight,
                                        .sinkTokens = kSinkTokens,
                                        .scale = kScale};

std::shared_ptr<AttentionProblem> bind(const Call& call) {
  expectInputs(call);
  auto p = std::make_shared<AttentionProblem>();
  bindAttentionSizes(call, kArguments, *p);
  if (call.input(kLambda).rank == 1)
    expectShape(call, kLambda, {p->args.H}, "[H]");
  else
    expectShape(call, kLambda, {p->B, p->T, p->args.H}, "[B,T,H]");
  expectNotNegative(call, kTolerance);
  expectInteger(call, kMaxIterations, 0, 10000);
  bindAttentionMask(call, kArguments, *p);
  bindAttentionSequences(call, kArguments, *p);
  return p;
}

// The tensors, once their memory is known.
LocalLinearArgs argsOf(const Call& call) {
  LocalLinearArgs p{};
  p.attention = attentionArgs(call, kArguments, *static_cast<const AttentionProblem*>(call.planned.get()));
  p.lambda = call.input(kLambda).f32();
  p.lambdaOfHead = call.input(kLambda).rank == 1;
  p.tolerance = static_cast<float>(call.number(kTolerance, kUsualTolerance));
  p.maxIterations = call.integer(kMaxIterations, 2 * p.attention.K);
  return p;
}

void plan(Call& call) {
  const auto p = bind(call);
  bindAttentionCache(call, kArguments, *p);
  const AttentionArgs& a = p->args;
  setOutput(call, kOutO, {p->B, p->T, a.H, a.V}, call.input(kQ).dtype);
  if (call.flag(kOutputSolution)) setOutput(call, kOutSolution, {p->B, p->T, a.H, a.K});
  if (call.flag(kOutputResidual)) setOutput(call, kOutResidual, {p->B, p->T, a.H});
  call.planned = p;
}

void run(const Call& call) {
  LocalLinearArgs p = argsOf(call);
  p.attention.o = call.outputs[kOutO].data;
  p.attention.oDType = call.outputs[kOutO].dtype;
  p.solution = call.outputs[kOutSolution].f32();
  p.residual = call.outputs[kOutResidual].f32();
  const CachedKeys keys(call, kArguments, p.attention);
  localLinear(p);
  keys.append();
}

void planBackward(Call& call) {
  const auto p = bind(call);
  const AttentionArgs& a = p->args;
  expectDType(call, kDO, kQ);
  expectShape(call, kDO, {p->B, p->T, a.H, a.V}, "[B,T,H,V]");
  if (call.input(kSolution).present()) expectShape(call, kSolution, {p->B, p->T, a.H, a.K}, "[B,T,H,K]");
  for (const auto& [gradient, of] : {std::pair<int, int>{kDq, kQ}, {kDk, kK}, {kDv, kV}})
    setOutputLike(call, gradient, call.input(of), gradientDType(call, kGradDtype, call.input(of)));
  setOutputLike(call, kDLambda, call.input(kLambda));
  if (call.flag(kOutputResidual)) setOutput(call, kGradResidual, {p->B, p->T, a.H});
  call.planned = p;
}

void runBackward(const Call& call) {
  LocalLinearBackwardArgs b{};
  b.forward = argsOf(call);
  b.forward.residual = call.outputs[kGradResidual].f32();
  b.solved = call.input(kSolution).f32();
  b.dO = call.input(kDO).data;
  b.dq = call.outputs[kDq].data;
  b.dk = call.outputs[kDk].data;
  b.dv = call.outputs[kDv].data;
  b.dLambda = call.outputs[kDLambda].f32();
  b.gradDType = call.outputs[kDq].dtype;
  localLinearBackward(b);
}

constexpr InputSpec kInputs[] = {{"q", true, kFloats},
                                 {"k", true, kFloats},
                                 {"v", true, kFloats},
                                 {"lambda"},
                                 {"cuSeqlens", false, kIndices, Access::Read, ""},
                                 {"cuSeqlensK", false, kIndices, Access::Read, ""},
                                 {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {{"q", true, kFloats},
                                         {"k", true, kFloats},
                                         {"v", true, kFloats},
                                         {"lambda"},
                                         {"cuSeqlens", false, kIndices, Access::Read, ""},
                                         {"cuSeqlensK", false, kIndices, Access::Read, ""},
                                         {"dO", true, kFloats},
                                         {"solution", false}};
constexpr OptionSpec kOptions[] = {
    {"causal", OptionKind::Flag},           {"window", OptionKind::Pair},         {"", OptionKind::PairHigh},
    {"sinkTokens", OptionKind::Integer},    {"scale", OptionKind::Number},        {"tolerance", OptionKind::Number},
    {"maxIterations", OptionKind::Integer}, {"outputResidual", OptionKind::Flag}, {"outputSolution", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"causal", OptionKind::Flag},
                                           {"window", OptionKind::Pair},
                                           {"", OptionKind::PairHigh},
                                           {"sinkTokens", OptionKind::Integer},
                                           {"scale", OptionKind::Number},
                                           {"tolerance", OptionKind::Number},
                                           {"maxIterations", OptionKind::Integer},
                                           {"outputResidual", OptionKind::Flag},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"solution"}, {"residual"}};
constexpr OutputSpec kGradients[] = {{"dq"}, {"dk"}, {"dv"}, {"dLambda"}, {"residual"}};

}  // namespace

extern const OpSpec localLinearAttentionOp, localLinearAttentionBackwardOp;
const OpSpec localLinearAttentionOp{.name = "localLinearAttention",
                                    .inputs = kInputs,
                                    .options = kOptions,
                                    .outputs = kOutputs,
                                    .plan = plan,
                                    .run = run,
                                    .takesCache = true};
const OpSpec localLinearAttentionBackwardOp{
    "localLinearAttentionBackward", kBackwardInputs, kBackwardOptions, kGradients, planBackward, runBackward};

}  // namespace rankone
