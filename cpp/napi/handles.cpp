#include "napi/handles.h"

#include <cmath>

#include "napi/devices.h"
#include "napi/handle.h"

namespace rankone {
namespace {

constexpr napi_type_tag kStateTag = {0x5d2f1c8e7a904b16, 0x9e3b70c4d1a85f22};
constexpr napi_type_tag kSavedTag = {0x81c6e50b3f7d4a99, 0xa47d92f06be31c58};

Handle<StateBuffer>& stateHandle(Napi::Env env, napi_value value) {
  return unwrap<StateBuffer>(env, value, kStateTag, "state", "a RecurrentState made by createState()");
}

constexpr double kMaxRows = 2147483647, kMaxWidth = 512;  // no call takes a wider key or value

int64_t dimension(const Napi::CallbackInfo& info, size_t i, const char* name, double most) {
  if (!info[i].IsNumber()) fail(ErrorKind::Type, "%s: expected a number", name);
  const double x = info[i].As<Napi::Number>().DoubleValue();
  if (!(x >= 1 && x <= most) || x != std::floor(x))
    fail(ErrorKind::Range, "%s: expected an integer from 1 to %.0f, got %.15g", name, most, x);
  return static_cast<int64_t>(x);
}

Napi::Value createState(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "createState", [&] {
    const int64_t n = dimension(info, 0, "batch", kMaxRows), hv = dimension(info, 1, "valueHeads", kMaxRows),
                  k = dimension(info, 2, "keyDim", kMaxWidth), v = dimension(info, 3, "valueDim", kMaxWidth),
                  h = info[4].IsUndefined() ? 0 : dimension(info, 4, "keyHeads", kMaxRows);
    if (h && hv % h != 0)
      fail(ErrorKind::Range, "keyHeads: expected a divisor of valueHeads = %lld, got %lld", static_cast<long long>(hv),
           static_cast<long long>(h));
    if (static_cast<double>(n) * hv * k * (v + 1) > 9e15) throw std::bad_alloc();
    auto device = deviceOf(info.Env(), info[5]);
    if (device && (k > 256 || v > 256))
      fail(ErrorKind::Range, "%s: expected an integer from 1 to 256 on %s, got %lld", k > 256 ? "keyDim" : "valueDim",
           device->name().c_str(), static_cast<long long>(k > 256 ? k : v));
    auto state = std::make_shared<StateBuffer>(n, hv, k, v, h, std::move(device));
    return Napi::Value(info.Env(), wrapState(info.Env(), std::move(state)));
  });
}

Napi::Value stateRead(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "RecurrentState.toTensor", [&] {
    StateHold hold(stateHandle(info.Env(), info[0]).object);
    const StateBuffer& state = *hold.get();
    float* to = floatsOf(info.Env(), info[1], "tensor", state.size());
    float* z = state.keyHeads ? floatsOf(info.Env(), info[2], "z", state.zSize()) : nullptr;
    state.read(to, z);
    return info.Env().Undefined();
  });
}

Napi::Value stateWrite(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "RecurrentState.copyFrom", [&] {
    StateHold hold(stateHandle(info.Env(), info[0]).object, true);
    StateBuffer& state = *hold.get();
    const float* from = floatsOf(info.Env(), info[1], "tensor", state.size());
    const bool hasZ = !info[2].IsUndefined();
    if (hasZ && !state.keyHeads) fail(ErrorKind::Type, "z: this state has none (createState takes keyHeads)");
    const float* z = hasZ ? floatsOf(info.Env(), info[2], "z", state.zSize()) : nullptr;
    state.write(from, z);
    state.poisoned = false;
    return info.Env().Undefined();
  });
}

Napi::Value stateClone(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "RecurrentState.clone", [&] {
    StateHold hold(stateHandle(info.Env(), info[0]).object);
    const StateBuffer& from = *hold.get();
    auto copy = std::make_shared<StateBuffer>(from.batch, from.valueHeads, from.keyDim, from.valueDim, from.keyHeads,
                                              from.device);
    copy->copyFrom(from);
    return Napi::Value(info.Env(), wrapState(info.Env(), std::move(copy)));
  });
}

// The handle keeps the disposed buffer, so that a later use is told what happened.
Napi::Value stateDispose(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "RecurrentState.dispose", [&] {
    Handle<StateBuffer>& handle = stateHandle(info.Env(), info[0]);
    handle.object->dispose();
    account(info.Env(), -handle.bytes);
    handle.bytes = 0;
    return info.Env().Undefined();
  });
}

Napi::Value savedDispose(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "SavedForward.dispose", [&] {
    drop(info.Env(), unwrap<SavedForward>(info.Env(), info[0], kSavedTag, "saved", "a SavedForward"));
    return info.Env().Undefined();
  });
}

// What the garbage collector believes to lie outside of its heap; process.memoryUsage() does not tell.
Napi::Value externalMemory(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(account(info.Env(), 0)));
}

}  // namespace

napi_value wrapState(Napi::Env env, std::shared_ptr<StateBuffer> state) {
  const size_t bytes = state->bytes();
  return wrap(env, std::move(state), bytes, kStateTag);
}

napi_value wrapSaved(Napi::Env env, std::shared_ptr<SavedForward> saved) {
  const size_t bytes = saved->bytes();
  return wrap(env, std::move(saved), bytes, kSavedTag);
}

std::shared_ptr<StateBuffer> stateOf(Napi::Env env, napi_value value) { return stateHandle(env, value).object; }

std::shared_ptr<SavedForward> savedOf(Napi::Env env, napi_value value) {
  auto& handle =
      unwrap<SavedForward>(env, value, kSavedTag, "saved", "what a forward with saveForBackward returned as `saved`");
  if (!handle.object) fail(ErrorKind::State, "saved: it has been disposed");
  return handle.object;
}

StateHold::StateHold(std::shared_ptr<StateBuffer> state, bool evenIfPoisoned) {
  state->acquire();
  state_ = std::move(state);
  if (!state_->poisoned || evenIfPoisoned) return;
  std::shared_ptr<StateBuffer> held = std::move(state_);
  held->release();
  fail(ErrorKind::State, "state: a call that did not finish left it half advanced; copyFrom() makes it whole again");
}

void exportHandles(Napi::Env env, Napi::Object exports) {
  exports.Set("createState", Napi::Function::New<createState>(env));
  exports.Set("stateRead", Napi::Function::New<stateRead>(env));
  exports.Set("stateWrite", Napi::Function::New<stateWrite>(env));
  exports.Set("stateClone", Napi::Function::New<stateClone>(env));
  exports.Set("stateDispose", Napi::Function::New<stateDispose>(env));
  exports.Set("savedDispose", Napi::Function::New<savedDispose>(env));
  exports.Set("externalMemory", Napi::Function::New<externalMemory>(env));
}

}  // namespace rankone
