#include "ops/attention_problem.h"

#include <cmath>

#include "kernels/convert.h"
#include "ops/kv_cache.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

long long text(int64_t n) { return static_cast<long long>(n); }

// How far a window reaches to one side.
int64_t windowSide(const Call& call, int option) {
  constexpr double kMost = 1e15;
  const OptionValue& side = call.options[option];
  if (!side.given) return AttentionMask{}.left;
  if (!(side.value >= 0) || (side.value <= kMost && side.value != std::floor(side.value)))
    fail(ErrorKind::Range, "window: expected two integers >= 0, or Infinity, got %g", side.value);
  return side.value > kMost ? AttentionMask{}.left : static_cast<int64_t>(side.value);
}

void checkCache(const Call& call, const AttentionArguments& at, const AttentionProblem& p) {
  const KvCache& cache = *call.cache;
  const AttentionArgs& a = p.args;
  const bool pool = call.input(at.stateIndices).present();
  if ((!pool && cache.slots != p.N) || cache.kvHeads != a.HKV || cache.keyDim != a.K || cache.valueDim != a.V)
    fail(ErrorKind::Range,
         "cache: expected %s = %lld, kvHeads = %lld, keyDim = %lld, valueDim = %lld, got %lld, %lld, %lld, %lld",
         pool ? "slots" : "batch", text(pool ? cache.slots : p.N), text(a.HKV), text(a.K), text(a.V), text(cache.slots),
         text(cache.kvHeads), text(cache.keyDim), text(cache.valueDim));
  if (pool) expectStateRows(call, at.stateIndices, p.N, cache.slots);
  if (call.input(at.cuSeqlensK).present())
    fail(ErrorKind::Type, "cuSeqlensK: expected none beside a cache, which knows how many keys there are");
  if (p.S != p.T)
    fail(ErrorKind::Range, "k: expected S = T = %lld beside a cache, got shape %s", text(p.T),
         call.input(at.k).shapeText().c_str());
  if (!a.mask.causal) fail(ErrorKind::Range, "causal: expected true beside a cache, got false");
  if (!cache.window) return;
  if (a.mask.left > cache.window)
    fail(ErrorKind::Range, "window: expected [left, right] with left up to %lld, what the cache keeps, got %s",
         text(cache.window), call.options[at.window].given ? "more" : "none");
  if (a.mask.first > cache.sinkTokens)
    fail(ErrorKind::Range, "sinkTokens: expected up to %lld, what the cache keeps, got %lld", text(cache.sinkTokens),
         text(a.mask.first));
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

}  // namespace

void bindAttentionSizes(const Call& call, const AttentionArguments& at, AttentionProblem& p) {
  const Tensor &q = call.input(at.q), &k = call.input(at.k), &v = call.input(at.v);
  expectRank(call, at.q, 4, "[B,T,H,K]");
  expectRank(call, at.k, 4, "[B,S,HKV,K]");
  expectRank(call, at.v, 4, "[B,S,HKV,V]");
  AttentionArgs& a = p.args;
  p.B = q.shape[0];
  p.T = q.shape[1];
  p.S = k.shape[1];
  a.H = q.shape[2];
  a.K = q.shape[3];
  a.HKV = k.shape[2];
  a.V = v.shape[3];
  expectShape(call, at.k, {p.B, p.S, a.HKV, a.K}, "[B,S,HKV,K]");
  expectShape(call, at.v, {p.B, p.S, a.HKV, a.V}, "[B,S,HKV,V]");
  for (int input : {at.q, at.v})
    if (const int64_t width = call.input(input).shape[3]; width < 1 || width > kMaxHeadDim)
      fail(ErrorKind::Range, "%s: expected a head size from 1 to %lld, got shape %s", call.spec->inputs[input].name,
           text(kMaxHeadDim), call.input(input).shapeText().c_str());
  if (a.H < 1) fail(ErrorKind::Range, "q: expected at least one head, got shape %s", q.shapeText().c_str());
  if (a.HKV < 1 || a.H % a.HKV != 0)
    fail(ErrorKind::Range, "k: expected HKV to be a divisor of H = %lld, got shape %s", text(a.H),
         k.shapeText().c_str());
  for (int input : {at.k, at.v}) expectDType(call, input, at.q);
  expectCountable("q, v", {p.B, p.T, a.H, a.V});
}

void bindAttentionMask(const Call& call, const AttentionArguments& at, AttentionProblem& p) {
  AttentionArgs& a = p.args;
  expectFinite(call, at.scale);
  expectInteger(call, at.sinkTokens, 0, int64_t{1} << 50);
  a.scale = static_cast<float>(call.number(at.scale, 1 / std::sqrt(static_cast<double>(a.K))));
  a.mask.causal = call.flag(at.causal, true);
  a.mask.left = windowSide(call, at.window);
  a.mask.right = windowSide(call, at.windowRight);
  if (a.mask.causal) a.mask.right = 0;
  a.mask.first = call.integer(at.sinkTokens, 0);
}

void bindAttentionSequences(const Call& call, const AttentionArguments& at, AttentionProblem& p) {
  const bool packed = call.input(at.cuSeqlens).present(), packedK = call.input(at.cuSeqlensK).present();
  if (packedK && !packed) fail(ErrorKind::Type, "cuSeqlensK: expected cuSeqlens beside it, got none");
  if (!packed) {
    p.N = p.B;
    if (p.T == 0 && p.S == 0) return;  // however many there are
    for (int64_t b = 0; b < p.B; ++b) p.sequences.push_back({b * p.T, p.T, b * p.S, p.S});
    return;
  }
  p.N = expectStarts(call, at.cuSeqlens, p.B, p.T);
  if (packedK) {
    expectShape(call, at.cuSeqlensK, {p.N + 1}, "[N+1]");
    expectStarts(call, at.cuSeqlensK, p.B, p.S, "S");
  } else if (p.S != p.T) {
    fail(ErrorKind::Range, "k: expected S = T = %lld without cuSeqlensK, got shape %s", text(p.T),
         call.input(at.k).shapeText().c_str());
  }
  const IndexView starts(call.input(at.cuSeqlens)), startsK(call.input(packedK ? at.cuSeqlensK : at.cuSeqlens));
  for (int64_t i = 0; i < p.N; ++i)
    p.sequences.push_back({starts[i], starts[i + 1] - starts[i], startsK[i], startsK[i + 1] - startsK[i]});
}

void bindAttentionCache(const Call& call, const AttentionArguments& at, AttentionProblem& p) {
  const Tensor& indices = call.input(at.stateIndices);
  if (!call.cache) {
    if (indices.present()) fail(ErrorKind::Type, "stateIndices: expected a cache beside them, got none");
    return;
  }
  checkCache(call, at, p);
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

AttentionArgs attentionArgs(const Call& call, const AttentionArguments& at, const AttentionProblem& p) {
  AttentionArgs a = p.args;
  a.q = call.input(at.q).data;
  a.k = call.input(at.k).data;
  a.v = call.input(at.v).data;
  a.dtype = a.keyDType = call.input(at.q).dtype;
  a.sequences = &p.sequences;
  a.cancel = call.cancel;
  return a;
}

CachedKeys::CachedKeys(const Call& call, const AttentionArguments& at, AttentionArgs& a) : call_(call), a_(a) {
  const KvCache* cache = call.cache;
  if (!cache || cache->dtype == a.dtype) return;
  k_ = converted(call.input(at.k), cache->dtype, call.cancel);
  v_ = converted(call.input(at.v), cache->dtype, call.cancel);
  a.k = k_.data();
  a.v = v_.data();
  a.keyDType = cache->dtype;
}

void CachedKeys::append() const {
  KvCache* cache = call_.cache;
  if (!cache) return;
  const size_t keyBytes = static_cast<size_t>(a_.HKV * a_.K) * dtypeSize(cache->dtype),
               valueBytes = static_cast<size_t>(a_.HKV * a_.V) * dtypeSize(cache->dtype);
  for (const AttentionSequence& s : *a_.sequences)
    cache->append(s.slot, s.S, static_cast<const char*>(a_.k) + static_cast<size_t>(s.k) * keyBytes,
                  static_cast<const char*>(a_.v) + static_cast<size_t>(s.k) * valueBytes);
}

}  // namespace rankone
