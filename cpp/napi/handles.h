// Engine-owned objects in JavaScript's hands: a wrapped, type-tagged object that shares ownership with running calls.
#pragma once
#include <napi.h>

#include <cstdint>
#include <memory>

#include "ops/adapter_bank.h"
#include "ops/kv_cache.h"
#include "ops/packed_weight.h"
#include "ops/saved.h"
#include "ops/state.h"

namespace rankone {

// Each returns an object that only the functions below can open.
napi_value wrapState(Napi::Env env, std::shared_ptr<StateBuffer> state);
napi_value wrapSaved(Napi::Env env, std::shared_ptr<SavedForward> saved);
napi_value wrapPacked(Napi::Env env, std::shared_ptr<const PackedWeight> packed);

// The object inside. Error(Type) for anything else, Error(State) where it has been disposed (a state says so itself).
std::shared_ptr<StateBuffer> stateOf(Napi::Env env, napi_value value);
std::shared_ptr<SavedForward> savedOf(Napi::Env env, napi_value value);
std::shared_ptr<const PackedWeight> packedOf(Napi::Env env, napi_value value);
std::shared_ptr<AdapterBank> bankOf(Napi::Env env, napi_value value);
std::shared_ptr<KvCache> cacheOf(Napi::Env env, napi_value value);

// The garbage collector is told what the bank has of the system by now.
void accountBank(Napi::Env env, napi_value value);

// createState, stateRead, stateWrite, stateClone, stateDispose, savedDispose, externalMemory
void exportHandles(Napi::Env env, Napi::Object exports);

// createCache, cacheLength, cacheReset, cacheTruncate, cacheRead, cacheDispose
void exportCaches(Napi::Env env, Napi::Object exports);

// packedInfo, packedRead, packedDispose, createBank, bankEvict, bankHas, bankIds, bankMemory, bankDispose
void exportLora(Napi::Env env, Napi::Object exports);

// A call's hold on its state: taken for good order, let go when the call ends, poisoned when it did not end well.
class StateHold {
 public:
  StateHold() = default;
  StateHold(std::shared_ptr<StateBuffer> state, bool evenIfPoisoned = false);
  StateHold(StateHold&& other) noexcept : state_(std::move(other.state_)) {}
  StateHold& operator=(StateHold&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~StateHold() {
    if (state_) state_->release();
  }
  StateBuffer* get() const { return state_.get(); }
  void poison() {
    if (state_) state_->poisoned = true;
  }

 private:
  std::shared_ptr<StateBuffer> state_;
};

// The same of a cache, which takes a call's tokens last of all and as a whole: there is nothing to poison.
class CacheHold {
 public:
  CacheHold() = default;
  explicit CacheHold(std::shared_ptr<KvCache> cache) {
    cache->acquire();
    cache_ = std::move(cache);
  }
  CacheHold(CacheHold&& other) noexcept : cache_(std::move(other.cache_)) {}
  CacheHold& operator=(CacheHold&& other) noexcept {
    std::swap(cache_, other.cache_);
    return *this;
  }
  ~CacheHold() {
    if (cache_) cache_->release();
  }
  KvCache* get() const { return cache_.get(); }

 private:
  std::shared_ptr<KvCache> cache_;
};

struct Holds {
  StateHold state;
  CacheHold cache;
};

}  // namespace rankone
