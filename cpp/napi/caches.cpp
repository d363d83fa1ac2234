// Caches of keys and values in JavaScript's hands.
#include <cmath>

#include "napi/arguments.h"
#include "napi/handle.h"
#include "napi/handles.h"

namespace rankone {
namespace {

constexpr napi_type_tag kCacheTag = {0x3b97d1e64c0852af, 0xc41e8f7a260db593};
constexpr double kMost = 2147483647;

Handle<KvCache>& cacheHandle(Napi::Env env, napi_value value) {
  return unwrap<KvCache>(env, value, kCacheTag, "cache", "a KvCache made by createKvCache()");
}

int64_t integer(const Napi::CallbackInfo& info, size_t i, const char* name, double least, double most) {
  if (!info[i].IsNumber()) fail(ErrorKind::Type, "%s: expected a number", name);
  const double x = info[i].As<Napi::Number>().DoubleValue();
  if (!(x >= least && x <= most) || x != std::floor(x))
    fail(ErrorKind::Range, "%s: expected an integer from %.0f to %.0f, got %.15g", name, least, most, x);
  return static_cast<int64_t>(x);
}

int64_t slotOf(const Napi::CallbackInfo& info, const KvCache& cache) {
  return integer(info, 1, "slot", 0, static_cast<double>(cache.slots - 1));
}

Napi::Value createCache(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "createKvCache", [&] {
    const double widest = static_cast<double>(kMaxCacheWidth);
    const int64_t slots = integer(info, 0, "batch", 1, kMost), heads = integer(info, 1, "kvHeads", 1, kMost),
                  k = integer(info, 2, "keyDim", 1, widest), v = integer(info, 3, "valueDim", 1, widest),
                  capacity = integer(info, 4, "capacity", 1, 2 * kMost), window = integer(info, 5, "window", 0, kMost),
                  dtype = integer(info, 6, "dtype", 0, 2);
    if (static_cast<double>(slots) * heads * capacity * (k + v) > 2e15) throw std::bad_alloc();
    auto cache = std::make_shared<KvCache>(slots, heads, k, v, capacity, window, static_cast<DType>(dtype));
    const size_t bytes = cache->bytes();
    return Napi::Value(info.Env(), wrap(info.Env(), std::move(cache), bytes, kCacheTag));
  });
}

Napi::Value cacheLength(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "KvCache.length", [&] {
    const CacheHold hold(cacheHandle(info.Env(), info[0]).object);
    return Napi::Number::New(info.Env(), static_cast<double>(hold.get()->length(slotOf(info, *hold.get()))));
  });
}

Napi::Value cacheReset(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "KvCache.reset", [&] {
    const CacheHold hold(cacheHandle(info.Env(), info[0]).object);
    KvCache& cache = *hold.get();
    const bool all = info[1].IsUndefined();
    const int64_t first = all ? 0 : slotOf(info, cache), last = all ? cache.slots - 1 : first;
    for (int64_t slot = first; slot <= last; ++slot) cache.reset(slot);
    return info.Env().Undefined();
  });
}

Napi::Value cacheTruncate(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "KvCache.truncate", [&] {
    const CacheHold hold(cacheHandle(info.Env(), info[0]).object);
    KvCache& cache = *hold.get();
    cache.truncate(slotOf(info, cache), integer(info, 2, "length", 0, 9007199254740991.0));
    return info.Env().Undefined();
  });
}

// The memory of the caller's array of the cache's dtype and of exactly so many elements.
void* elementsOf(Napi::Env env, napi_value value, const char* name, DType dtype, int64_t count) {
  ArrayView view;
  const auto type = dtype == DType::F32 ? napi_float32_array : napi_uint16_array;
  if (!viewOf(env, value, view) || view.type != type || static_cast<int64_t>(view.length) != count)
    fail(ErrorKind::Range, "%s: expected an array of %lld elements", name, static_cast<long long>(count));
  return view.data;
}

Napi::Value cacheRead(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "KvCache.toTensors", [&] {
    const CacheHold hold(cacheHandle(info.Env(), info[0]).object);
    const KvCache& cache = *hold.get();
    const int64_t slot = slotOf(info, cache), rows = cache.held(slot) * cache.kvHeads;
    void* k = elementsOf(info.Env(), info[2], "k", cache.dtype, rows * cache.keyDim);
    void* v = elementsOf(info.Env(), info[3], "v", cache.dtype, rows * cache.valueDim);
    cache.read(slot, k, v);
    return info.Env().Undefined();
  });
}

// The handle keeps the disposed cache, so that a later use is told what happened.
Napi::Value cacheDispose(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "KvCache.dispose", [&] {
    Handle<KvCache>& handle = cacheHandle(info.Env(), info[0]);
    handle.object->dispose();
    account(info.Env(), -handle.bytes);
    handle.bytes = 0;
    return info.Env().Undefined();
  });
}

}  // namespace

std::shared_ptr<KvCache> cacheOf(Napi::Env env, napi_value value) { return cacheHandle(env, value).object; }

void exportCaches(Napi::Env env, Napi::Object exports) {
  exports.Set("createCache", Napi::Function::New<createCache>(env));
  exports.Set("cacheLength", Napi::Function::New<cacheLength>(env));
  exports.Set("cacheReset", Napi::Function::New<cacheReset>(env));
  exports.Set("cacheTruncate", Napi::Function::New<cacheTruncate>(env));
  exports.Set("cacheRead", Napi::Function::New<cacheRead>(env));
  exports.Set("cacheDispose", Napi::Function::New<cacheDispose>(env));
}

}  // namespace rankone
