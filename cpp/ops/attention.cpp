// Softmax attention over tensors or over the keys and values of a cache, and its gradients.
#include "kernels/attention.h"

#include <cmath>

#include "kernels/convert.h"
#include "ops/kv_cache.h"
#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kQ, kK, kV, kSinks, kGate, kCuSeqlens, kCuSeqlensK, kStateIndices };
enum BackwardInput { kDO = kStateIndices, kDLse, kO, kLse };
enum Option { kCausal, kWindow, kWindowRight, kSinkTokens, kScale, kSoftcap, kOutputLse };
enum BackwardOption { kGradDtype = kOutputLse };
enum Output { kOutO, kOutLse };
enum Gradient { kDq, kDk, kDv, kDSinks, kDGate };

struct Problem {
  AttentionArgs args{};
  int64_t B = 0, T = 0, S = 0, N = 0;  // N: sequences
  std::vector<AttentionSequence> sequences;
};

long long text(int64_t n) { return static_cast<long long>(n); }

void bindSizes(const Call& call, Problem& p) {
  const Tensor &q = call.input(kQ), &k = call.input(kK), &v = call.input(kV);
  expectRank(call, kQ, 4, "[B,T,H,K]");
  expectRank(call, kK, 4, "[B,S,HKV,K]");
  expectRank(call, kV, 4, "[B,S,HKV,V]");
  AttentionArgs& a = p.args;
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
    if (const int64_t width = call.input(input).shape[3]; width < 1 || width > kMaxHeadDim)
      fail(ErrorKind::Range, "%s: expected a head size from 1 to %lld, got shape %s", call.spec->inputs[input].name,
           text(kMaxHeadDim), call.input(input).shapeText().c_str());
  if (a.H < 1) fail(ErrorKind::Range, "q: expected at least one head, got shape %s", q.shapeText().c_str());
  if (a.HKV < 1 || a.H % a.HKV != 0)
    fail(ErrorKind::Range, "k: expected HKV to be a divisor of H = %lld, got shape %s", text(a.H),
         k.shapeText().c_str());
  for (int input : {kK, kV}) expectDType(call, input, kQ);
  if (call.input(kSinks).present()) expectShape(call, kSinks, {a.H}, "[H]");
  expectDType(call, kGate, kQ, true);
  if (call.input(kGate).present()) expectShape(call, kGate, {p.B, p.T, a.H, a.V}, "[B,T,H,V]");
  expectCountable("q, v", {p.B, p.T, a.H, a.V});
}

// How far a window reaches to one side.
int64_t windowSide(const Call& call, int option) {
  constexpr double kMost = 1e15;
  const OptionValue& side = call.options[option];
  if (!side.given) return AttentionMask{}.left;
  if (!(side.value >= 0) || (side.value <= kMost && side.value != std::floor(side.value)))
    fail(ErrorKind::Range, "window: expected two integers >= 0, or Infinity, got %g", side.value);
  return side.value > kMost ? AttentionMask{}.left : static_cast<int64_t>(side.value);
}

void bindOptions(const Call& call, Problem& p) {
  AttentionArgs& a = p.args;
  expectFinite(call, kScale);
  expectNotNegative(call, kSoftcap);
  expectInteger(call, kSinkTokens, 0, int64_t{1} << 50);
  a.scale = static_cast<float>(call.number(kScale, 1 / std::sqrt(static_cast<double>(a.K))));
  a.softcap = static_cast<float>(call.number(kSoftcap, 0));
  a.mask.causal = call.flag(kCausal, true);
  a.mask.left = windowSide(call, kWindow);
  a.mask.right = windowSide(call, kWindowRight);
  if (a.mask.causal) a.mask.right = 0;
  a.mask.first = call.integer(kSinkTokens, 0);
}

void bindSequences(const Call& call, Problem& p) {
  const bool packed = call.input(kCuSeqlens).present(), packedK = call.input(kCuSeqlensK).present();
  if (packedK && !packed) fail(ErrorKind::Type, "cuSeqlensK: expected cuSeqlens beside it, got none");
  if (!packed) {
    p.N = p.B;
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
  for (int64_t i = 0; i < p.N; ++i) p.sequences.push_back({at[i], at[i + 1] - at[i], atK[i], atK[i + 1] - atK[i]});
}

void checkCache(const Call& call, const Problem& p) {
  const KvCache& cache = *call.cache;
  const AttentionArgs& a = p.args;
  const bool pool = call.input(kStateIndices).present();
  if ((!pool && cache.slots != p.N) || cache.kvHeads != a.HKV || cache.keyDim != a.K || cache.valueDim != a.V)
    fail(ErrorKind::Range,
         "cache: expected %s = %lld, kvHeads = %lld, keyDim = %lld, valueDim = %lld, got %lld, %lld, %lld, %lld",
         pool ? "slots" : "batch", text(pool ? cache.slots : p.N), text(a.HKV), text(a.K), text(a.V), text(cache.slots),
         text(cache.kvHeads), text(cache.keyDim), text(cache.valueDim));
  if (pool) expectStateRows(call, kStateIndices, p.N, cache.slots);
  if (call.input(kCuSeqlensK).present())
    fail(ErrorKind::Type, "cuSeqlensK: expected none beside a cache, which knows how many keys there are");
  if (p.S != p.T)
    fail(ErrorKind::Range, "k: expected S = T = %lld beside a cache, got shape %s", text(p.T),
         call.input(kK).shapeText().c_str());
  if (!a.mask.causal) fail(ErrorKind::Range, "causal: expected true beside a cache, got false");
  if (!cache.window) return;
  if (a.mask.left > cache.window)
    fail(ErrorKind::Range, "window: expected [left, right] with left up to %lld, what the cache keeps, got %s",
         text(cache.window), call.options[kWindow].given ? "more" : "none");
  if (a.mask.first > cache.sinkTokens)
    fail(ErrorKind::Range, "sinkTokens: expected up to %lld, what the cache keeps, got %lld", text(cache.sinkTokens),
         text(a.mask.first));
}

void bindCache(const Call& call, Problem& p) {
  const Tensor& indices = call.input(kStateIndices);
  if (!call.cache) {
    if (indices.present()) fail(ErrorKind::Type, "stateIndices: expected a cache beside them, got none");
    return;
  }
  checkCache(call, p);
  const KvCache& cache = *call.cache;
  const IndexView slots(indices);
  for (size_t i = 0; i < p.sequences.size(); ++i) {
    AttentionSequence& s = p.sequences[i];
    s.slot = indices.present() ? slots[static_cast<int64_t>(i)] : static_cast<int64_t>(i);
    s.cached = cache.length(s.slot);
    if (!cache.window && s.keys() > cache.capacity)
      fail(ErrorKind::Range, "cache: expected room for %lld tokens more in slot %lld, which has %lld of %lld",
           text(s.S), text(s.slot), text(s.cached), text(cache.capacity));
  }
  p.args.cache = cache.view();
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
AttentionArgs argsOf(const Call& call) {
  const Problem& p = *static_cast<const Problem*>(call.planned.get());
  AttentionArgs a = p.args;
  a.q = call.input(kQ).data;
  a.k = call.input(kK).data;
  a.v = call.input(kV).data;
  a.sinks = call.input(kSinks).f32();
  a.gate = call.input(kGate).data;
  a.dtype = a.keyDType = call.input(kQ).dtype;
  a.gateDType = call.input(kGate).dtype;
  a.sequences = &p.sequences;
  a.cancel = call.cancel;
  return a;
}

void plan(Call& call) {
  const auto p = bind(call);
  bindCache(call, *p);
  setOutput(call, kOutO, {p->B, p->T, p->args.H, p->args.V}, call.input(kQ).dtype);
  if (call.flag(kOutputLse)) setOutput(call, kOutLse, {p->B, p->T, p->args.H});
  call.planned = p;
}

// The tensor's elements in another float type.
AlignedBuffer converted(const Tensor& from, DType to, const CancelFlag* cancel) {
  AlignedBuffer wide(static_cast<size_t>(from.size()) * sizeof(float));
  widenAll(from.data, from.dtype, 0, from.size(), wide.f32(), cancel);
  if (to == DType::F32) return wide;
  AlignedBuffer narrow(static_cast<size_t>(from.size()) * dtypeSize(to));
  narrowAll(wide.f32(), from.size(), narrow.data(), to, cancel);
  return narrow;
}

void run(const Call& call) {
  AttentionArgs a = argsOf(call);
  a.o = call.outputs[kOutO].data;
  a.oDType = call.outputs[kOutO].dtype;
  a.lse = call.outputs[kOutLse].f32();
  KvCache* cache = call.cache;
  AlignedBuffer k, v;
  if (cache && cache->dtype != a.dtype) {  // what is attended to is what the cache will hold
    k = converted(call.input(kK), cache->dtype, call.cancel);
    v = converted(call.input(kV), cache->dtype, call.cancel);
    a.k = k.data();
    a.v = v.data();
    a.keyDType = cache->dtype;
  }
  attention(a);
  if (!cache) return;
  const size_t keyBytes = static_cast<size_t>(a.HKV * a.K) * dtypeSize(cache->dtype),
               valueBytes = static_cast<size_t>(a.HKV * a.V) * dtypeSize(cache->dtype);
  for (const AttentionSequence& s : *a.sequences)
    cache->append(s.slot, s.S, static_cast<const char*>(a.k) + static_cast<size_t>(s.k) * keyBytes,
                  static_cast<const char*>(a.v) + static_cast<size_t>(s.k) * valueBytes);
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
