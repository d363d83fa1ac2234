// Softmax attention over tensors or over the keys and values of a cache, and its gradients.
#include "kernels/attention.h"

#include "ops/attention_problem.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kQ, kK, kV, kSinks, kGate, kCuSeqlens, kCuSeqlensK, kStateIndices };
enum BackwardInput { kDO = kStateIndices, kDLse, kO, kLse };
enum Option { kCausal, kWindow, kWindowRight, kSinkTokens, kScale, kSoftcap, kOutputLse };
enum BackwardOption { kGradDtype = kOutputLse };
enum Output { kOutO, kOutLse };
enum Gradient { kDq, kDk, kDv, kDSinks, kDGate };

using Problem = AttentionProblem;

constexpr AttentionArguments kAttention{.q = kQ,
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

std::shared_ptr<Problem> bind(const Call& call) {
  expectInputs(call);
  auto p = std::make_shared<Problem>();
  bindAttentionSizes(call, kAttention, *p);
  AttentionArgs& a = p->args;
  if (call.input(kSinks).present()) expectShape(call, kSinks, {a.H}, "[H]");
  expectDType(call, kGate, kQ, true);
  if (call.input(kGate).present()) expectShape(call, kGate, {p->B, p->T, a.H, a.V}, "[B,T,H,V]");
  expectNotNegative(call, kSoftcap);
  a.softcap = static_cast<float>(call.number(kSoftcap, 0));
  bindAttentionMask(call, kAttention, *p);
  bindAttentionSequences(call, kAttention, *p);
  return p;
}

// The tensors, once their memory is known.
AttentionArgs argsOf(const Call& call) {
  AttentionArgs a = attentionArgs(call, kAttention, *static_cast<const Problem*>(call.planned.get()));
  a.sinks = call.input(kSinks).f32();
  a.gate = call.input(kGate).data;
  a.gateDType = call.input(kGate).dtype;
  return a;
}

void plan(Call& call) {
  const auto p = bind(call);
  bindAttentionCache(call, kAttention, *p);
  setOutput(call, kOutO, {p->B, p->T, p->args.H, p->args.V}, call.input(kQ).dtype);
  if (call.flag(kOutputLse)) setOutput(call, kOutLse, {p->B, p->T, p->args.H});
  call.planned = p;
}

void run(const Call& call) {
  AttentionArgs a = argsOf(call);
  a.o = call.outputs[kOutO].data;
  a.oDType = call.outputs[kOutO].dtype;
  a.lse = call.outputs[kOutLse].f32();
  const CachedKeys keys(call, kAttention, a);
  attention(a);
  keys.append();
}

void planBackward(Call& call) {
  const auto p = bind(call);
  expectDType(call, kDO, kQ);
  const std::initializer_list<int64_t> rows{p->B, p->T, p->args.H}, values{p->B, p->T, p->args.H, p->args.V};
  expectShape(call, kDO, values, "[B,T,H,V]");
  if (call.input(kDLse).present()) expectShape(call, kDLse, rows, "[B,T,H]");
  if (call.input(kO).present() != call.input(kLse).present())
    fail(ErrorKind::Type, "%s: expected a tensor, or neither o nor lse, got none",
         call.input(kO).present() ? "lse" : "o");
  if (call.input(kO).present()) {
    expectDType(call, kO, kQ, true);
    expectShape(call, kO, values, "[B,T,H,V]");
    expectShape(call, kLse, rows, "[B,T,H]");
  }
  const auto setGradient = [&](int gradient, int of) {
    setOutputLike(call, gradient, call.input(of), gradientDType(call, kGradDtype, call.input(of)));
  };
  setGradient(kDq, kQ);
  setGradient(kDk, kK);
  setGradient(kDv, kV);
  if (call.input(kSinks).present()) setOutputLike(call, kDSinks, call.input(kSinks));
  if (call.input(kGate).present()) setGradient(kDGate, kGate);
  call.planned = p;
}

void runBackward(const Call& call) {
  AttentionBackwardArgs b;
  b.forward = argsOf(call);
  AttentionArgs& a = b.forward;
  AlignedBuffer o, lse;
  if (call.input(kO).present()) {
    a.o = call.input(kO).data;
    a.oDType = call.input(kO).dtype;
    a.lse = call.input(kLse).f32();
  } else {
    const Tensor& dO = call.input(kDO);
    o = AlignedBuffer(static_cast<size_t>(dO.size()) * sizeof(float));
    lse = AlignedBuffer(static_cast<size_t>(dO.size() / a.V) * sizeof(float));
    a.o = o.data();
    a.oDType = DType::F32;
    a.lse = lse.f32();
    attention(a);
  }
  b.dO = call.input(kDO).data;
  b.dLse = call.input(kDLse).f32();
  b.dq = call.outputs[kDq].data;
  b.dk = call.outputs[kDk].data;
  b.dv = call.outputs[kDv].data;
  b.dSinks = call.outputs[kDSinks].f32();
  b.dGate = call.outputs[kDGate].data;
  b.gradDType = call.outputs[kDq].dtype;
  b.dGateDType = call.outputs[kDGate].dtype;
  attentionBackward(b);
}

constexpr InputSpec kInputs[] = {{"q", true, kFloats},
                                 {"k", true, kFloats},
                                 {"v", true, kFloats},
                                 {"sinks", false},
                                 {"gate", false, kFloats},
                                 {"cuSeqlens", false, kIndices, Access::Read, ""},
                                 {"cuSeqlensK", false, kIndices, Access::Read, ""},
                                 {"stateIndices", false, kI32, Access::Read, ""}};
constexpr InputSpec kBackwardInputs[] = {{"q", true, kFloats},
                                         {"k", true, kFloats},
                                         {"v", true, kFloats},
                                         {"sinks", false},
                                         {"gate", false, kFloats},
                                         {"cuSeqlens", false, kIndices, Access::Read, ""},
                                         {"cuSeqlensK", false, kIndices, Access::Read, ""},
                                         {"dO", true, kFloats},
                                         {"dLse", false},
                                         {"o", false, kFloats},
                                         {"lse", false}};
constexpr OptionSpec kOptions[] = {{"causal", OptionKind::Flag},   {"window", OptionKind::Pair},
                                   {"", OptionKind::PairHigh},     {"sinkTokens", OptionKind::Integer},
                                   {"scale", OptionKind::Number},  {"softcap", OptionKind::Number},
                                   {"outputLse", OptionKind::Flag}};
constexpr OptionSpec kBackwardOptions[] = {{"causal", OptionKind::Flag},
                                           {"window", OptionKind::Pair},
                                           {"", OptionKind::PairHigh},
                                           {"sinkTokens", OptionKind::Integer},
                                           {"scale", OptionKind::Number},
                                           {"softcap", OptionKind::Number},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"o"}, {"lse"}};
constexpr OutputSpec kGradients[] = {{"dq"}, {"dk"}, {"dv"}, {"dSinks"}, {"dGate"}};

}  // namespace

extern const OpSpec attentionOp, attentionBackwardOp;
const OpSpec attentionOp{.name = "attention",
                         .inputs = kInputs,
                         .options = kOptions,
                         .outputs = kOutputs,
                         .plan = plan,
                         .run = run,
                         .takesCache = true};
const OpSpec attentionBackwardOp{"attentionBackward", kBackwardInputs, kBackwardOptions,
                                 kGradients,          planBackward,    runBackward};

}  // namespace rankone
