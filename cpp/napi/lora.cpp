// Packed weights and adapter banks in JavaScript's hands.
#include <cmath>

#include "napi/arguments.h"
#include "napi/devices.h"
#include "napi/handle.h"
#include "napi/handles.h"
#include "napi/tasks.h"

namespace rankone {
namespace {

constexpr napi_type_tag kPackedTag = {0x3b9e64d17f20c5a8, 0xc41d5a2e8876f093};
constexpr napi_type_tag kBankTag = {0xe07a3c95b14d6f28, 0x52f8b91c6ed340a7};

Handle<const PackedWeight>& packedHandle(Napi::Env env, napi_value value) {
  return unwrap<const PackedWeight>(env, value, kPackedTag, "base", "a PackedWeight");
}

Handle<AdapterBank>& bankHandle(Napi::Env env, napi_value value) {
  return unwrap<AdapterBank>(env, value, kBankTag, "bank", "an AdapterBank made by createAdapterBank()");
}

napi_value numbers(Napi::Env env, std::initializer_list<double> list) {
  napi_value array;
  check(env, napi_create_array_with_length(env, list.size(), &array));
  uint32_t i = 0;
  for (const double x : list) defineElement(env, array, i++, Napi::Number::New(env, x));
  return array;
}

Napi::Value packedInfo(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "PackedWeight", [&] {
    const auto packed = packedOf(info.Env(), info[0]);
    return Napi::Value(
        info.Env(), numbers(info.Env(), {static_cast<double>(packed->out()), static_cast<double>(packed->in()),
                                         static_cast<double>(packed->format), static_cast<double>(packed->bytes())}));
  });
}

Napi::Value packedRead(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "PackedWeight.toTensor", [&] {
    const auto packed = packedOf(info.Env(), info[0]);
    packed->unpack(floatsOf(info.Env(), info[1], "tensor", packed->out() * packed->in()));
    return info.Env().Undefined();
  });
}

// A copy on a device, whose codes and scales are put in order and sent there while others work.
struct PackedCopy : Task {
  std::shared_ptr<const PackedWeight> from;
  std::shared_ptr<PackedWeight> to;
  std::exception_ptr error;

  void settle(Napi::Env env) override {
    if (error)
      napi_reject_deferred(env, deferred, jsError(env, "packWeight", error).Value());
    else
      napi_resolve_deferred(env, deferred, wrapPacked(env, std::move(to)));
  }
  void letGo() override { from.reset(); }
  void run(std::exception_ptr before) {
    error = before;
    try {
      if (!error) to->put(*from);
    } catch (...) {
      error = std::current_exception();
    }
  }
};

// packedToDevice(packed, device): a promise; packedToDeviceSync(...): the copy.
Napi::Value packedToDevice(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "packWeight", [&] {
    const Napi::Env env = info.Env();
    auto task = std::make_shared<PackedCopy>();
    task->from = packedOf(env, info[0]);
    const auto device = deviceOf(env, info[1]);
    task->to = std::make_shared<PackedWeight>(*task->from, device);
    napi_value promise;
    check(env, napi_create_promise(env, &task->deferred, &promise));
    afterDevice(env, task, device, [task = task.get()](std::exception_ptr error) { task->run(error); });
    return Napi::Value(env, promise);
  });
}

Napi::Value packedToDeviceSync(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "packWeight", [&] {
    const auto from = packedOf(info.Env(), info[0]);
    auto to = std::make_shared<PackedWeight>(*from, deviceOf(info.Env(), info[1]));
    to->putNow(*from);
    return Napi::Value(info.Env(), wrapPacked(info.Env(), std::move(to)));
  });
}

Napi::Value packedDispose(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "PackedWeight.dispose", [&] {
    drop(info.Env(), packedHandle(info.Env(), info[0]));
    return info.Env().Undefined();
  });
}

int64_t featuresOf(const Napi::CallbackInfo& info, size_t i, const char* name) {
  if (!info[i].IsNumber()) fail(ErrorKind::Type, "%s: expected a positive integer, got no number", name);
  const double x = info[i].As<Napi::Number>().DoubleValue();
  if (!(x >= 1 && x <= 2147483647) || x != std::floor(x))
    fail(ErrorKind::Range, "%s: expected an integer from 1 to 2147483647, got %.15g", name, x);
  return static_cast<int64_t>(x);
}

Napi::Value createBank(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "createAdapterBank", [&] {
    const int64_t in = featuresOf(info, 0, "inFeatures"), out = featuresOf(info, 1, "outFeatures");
    return Napi::Value(
        info.Env(),
        wrap(info.Env(), std::make_shared<AdapterBank>(in, out, deviceOf(info.Env(), info[2])), 0, kBankTag));
  });
}

// An id as an int32; -1, which no adapter has, for any other number.
int32_t idOf(const Napi::Value& value) {
  const double x = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  return x >= 0 && x <= INT32_MAX && x == std::floor(x) ? static_cast<int32_t>(x) : -1;
}

Napi::Value bankEvict(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "AdapterBank.evict", [&] {
    if (!bankOf(info.Env(), info[0])->evict(idOf(info[1])))
      fail(ErrorKind::Range, "id: expected one of a loaded adapter, got %.15g", info[1].ToNumber().DoubleValue());
    accountBank(info.Env(), info[0]);
    return info.Env().Undefined();
  });
}

Napi::Value bankHas(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "AdapterBank.has", [&] {
    const bool has = bankOf(info.Env(), info[0])->find(idOf(info[1])) != nullptr;
    return Napi::Value(Napi::Boolean::New(info.Env(), has));
  });
}

Napi::Value bankIds(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "AdapterBank.ids", [&] {
    const std::vector<int32_t> ids = bankOf(info.Env(), info[0])->ids();
    napi_value array;
    check(info.Env(), napi_create_array_with_length(info.Env(), ids.size(), &array));
    for (size_t i = 0; i < ids.size(); ++i)
      defineElement(info.Env(), array, static_cast<uint32_t>(i), Napi::Number::New(info.Env(), ids[i]));
    return Napi::Value(info.Env(), array);
  });
}

Napi::Value bankMemory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "AdapterBank.memory", [&] {
    const auto bank = bankOf(info.Env(), info[0]);
    accountBank(info.Env(), info[0]);
    PagedArena::Usage usage = bank->arena->usage();
    if (bank->device) usage = {bank->reservedBytes(), bank->reservedBytes(), 0};
    return Napi::Value(
        info.Env(),
        numbers(info.Env(),
                {static_cast<double>(bank->size()), static_cast<double>(usage.usedBytes),
                 static_cast<double>(usage.reservedBytes), static_cast<double>(usage.reservedBytes / PagedArena::kPage),
                 static_cast<double>(PagedArena::kPage), static_cast<double>(usage.largestFreeBytes)}));
  });
}

Napi::Value bankDispose(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "AdapterBank.dispose", [&] {
    Handle<AdapterBank>& handle = bankHandle(info.Env(), info[0]);
    if (handle.object) handle.object->clear();
    drop(info.Env(), handle);
    return info.Env().Undefined();
  });
}

}  // namespace

napi_value wrapPacked(Napi::Env env, std::shared_ptr<const PackedWeight> packed) {
  const size_t bytes = packed->bytes();
  return wrap(env, std::move(packed), bytes, kPackedTag);
}

std::shared_ptr<const PackedWeight> packedOf(Napi::Env env, napi_value value) {
  auto& handle = packedHandle(env, value);
  if (!handle.object) fail(ErrorKind::State, "base: it has been disposed");
  return handle.object;
}

std::shared_ptr<AdapterBank> bankOf(Napi::Env env, napi_value value) {
  auto& handle = bankHandle(env, value);
  if (!handle.object) fail(ErrorKind::State, "bank: it has been disposed");
  return handle.object;
}

void accountBank(Napi::Env env, napi_value value) {
  Handle<AdapterBank>& handle = bankHandle(env, value);
  if (!handle.object) return;
  const int64_t bytes = static_cast<int64_t>(handle.object->reservedBytes());
  if (bytes == handle.bytes) return;
  account(env, bytes - handle.bytes);
  handle.bytes = bytes;
}

void exportLora(Napi::Env env, Napi::Object exports) {
  exports.Set("packedInfo", Napi::Function::New<packedInfo>(env));
  exports.Set("packedRead", Napi::Function::New<packedRead>(env));
  exports.Set("packedToDevice", Napi::Function::New<packedToDevice>(env));
  exports.Set("packedToDeviceSync", Napi::Function::New<packedToDeviceSync>(env));
  exports.Set("packedDispose", Napi::Function::New<packedDispose>(env));
  exports.Set("createBank", Napi::Function::New<createBank>(env));
  exports.Set("bankEvict", Napi::Function::New<bankEvict>(env));
  exports.Set("bankHas", Napi::Function::New<bankHas>(env));
  exports.Set("bankIds", Napi::Function::New<bankIds>(env));
  exports.Set("bankMemory", Napi::Function::New<bankMemory>(env));
  exports.Set("bankDispose", Napi::Function::New<bankDispose>(env));
}

}  // namespace rankone
