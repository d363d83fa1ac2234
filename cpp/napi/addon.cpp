// The addon's exports: describe, call, callAsync, cancel, the handles, threads, the machine's ceilings.
#include <napi.h>

#include <cmath>

#include "core/cpu.h"
#include "core/library.h"
#include "core/parallel.h"
#include "napi/arguments.h"
#include "napi/call.h"
#include "napi/devices.h"
#include "napi/environment.h"
#include "napi/errors.h"
#include "napi/handles.h"
#include "napi/machine.h"
#include "ops/presets.h"
#include "ops/registry.h"

namespace rankone {
namespace {

Napi::Object describeEntry(Napi::Env env, const Entry& entry) {
  const OpSpec& spec = *entry.spec;
  Napi::Array inputs = Napi::Array::New(env), options = Napi::Array::New(env), outputs = Napi::Array::New(env);
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const InputSpec& in = spec.inputs[i];
    if (!takesInput(entry.preset, in)) continue;
    Napi::Object o = Napi::Object::New(env);
    o.Set("name", in.name);
    o.Set("slot", static_cast<double>(i));
    o.Set("required", requiresInput(entry.preset, in));
    Napi::Array dtypes = Napi::Array::New(env);
    for (DType t : kDTypes)
      if (in.dtypes & dtypeBit(t)) dtypes.Set(dtypes.Length(), dtypeName(t));
    o.Set("dtypes", dtypes);
    if (in.group) o.Set("group", in.group);
    o.Set("update", in.access == Access::Update);
    inputs.Set(inputs.Length(), o);
  }
  static const char* const kinds[] = {"flag", "integer", "number", "choice", "pair", "", "device"};
  for (size_t i = 0; i < spec.options.size(); ++i) {
    const OptionSpec& option = spec.options[i];
    if (option.kind == OptionKind::PairHigh || !takesOption(entry.preset, option)) continue;
    Napi::Object o = Napi::Object::New(env);
    o.Set("name", option.name);
    o.Set("slot", static_cast<double>(i));
    o.Set("kind", kinds[static_cast<int>(option.kind)]);
    if (option.choices) o.Set("choices", option.choices);
    if (option.group) o.Set("group", option.group);
    options.Set(options.Length(), o);
  }
  for (size_t i = 0; i < spec.outputs.size(); ++i) {
    if (!hasOutput(entry.preset, spec.outputs[i])) continue;
    Napi::Object o = Napi::Object::New(env);
    o.Set("name", spec.outputs[i].name);
    o.Set("slot", static_cast<double>(i));
    o.Set("offered", spec.outputs[i].offered);
    outputs.Set(outputs.Length(), o);
  }
  Napi::Object o = Napi::Object::New(env);
  o.Set("name", entry.name);
  o.Set("inputs", inputs);
  o.Set("inputCount", static_cast<double>(spec.inputs.size()));
  o.Set("options", options);
  o.Set("optionCount", static_cast<double>(spec.options.size()));
  o.Set("outputs", outputs);
  o.Set("outputCount", static_cast<double>(spec.outputs.size()));
  o.Set("takesState", spec.takesState);
  o.Set("makesSaved", spec.makesSaved);
  o.Set("takesSaved", spec.takesSaved);
  o.Set("takesBase", spec.takesBase);
  o.Set("takesBank", spec.takesBank);
  o.Set("takesCache", spec.takesCache);
  o.Set("makesBase", spec.makesBase);
  o.Set("wrapped", spec.wrapped);
  if (spec.inputGroup) o.Set("inputGroup", spec.inputGroup);
  return o;
}

Napi::Value describe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, "rankone", [&] {
    Napi::Array list = Napi::Array::New(env);
    for (const Entry& entry : entries()) list.Set(list.Length(), describeEntry(env, entry));
    Napi::Object o = Napi::Object::New(env);
    o.Set("entries", list);
    o.Set("maxRank", kMaxRank);
    o.Set("headerSize", header::kSize);
    o.Set("optionsAt", header::kOptions);
    o.Set("outputsAt", header::kOutputs);
    o.Set("stateAt", header::kState);
    o.Set("savedAt", header::kSaved);
    o.Set("baseAt", header::kBase);
    o.Set("bankAt", header::kBank);
    o.Set("cacheAt", header::kCache);
    o.Set("jobAt", header::kJob);
    o.Set("resultsAt", header::kResults);
    o.Set("deviceAt", header::kDevice);
    Napi::Array isas = Napi::Array::New(env);
    for (int i = 0; i < kIsaCount; ++i)
      if (isaAvailable(static_cast<Isa>(i))) isas.Set(isas.Length(), isaName(static_cast<Isa>(i)));
    o.Set("availableIsas", isas);
    o.Set("isa", isaName(activeIsa()));
    return Napi::Value(o);
  });
}

Napi::Value getThreads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), numThreads()); }

Napi::Value setThreads(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "setNumThreads", [&] {
    if (!info[0].IsNumber()) fail(ErrorKind::Type, "n: expected an integer from 1 to 1024");
    const double n = info[0].As<Napi::Number>().DoubleValue();
    if (!(n >= 1 && n <= 1024) || n != std::floor(n))
      fail(ErrorKind::Range, "n: expected an integer from 1 to 1024, got %g", n);
    setNumThreads(static_cast<int>(n));
    return info.Env().Undefined();
  });
}

Napi::Value plainFunction(Napi::Env env, const char* name, napi_callback callback) {
  napi_value function;
  check(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function));
  return Napi::Value(env, function);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  // The pool's threads run this library's code for as long as the process lives, but Node unloads an addon with the
  // last worker that used it.
  pinLibrary();
  env.SetInstanceData(new Environment(env));
  openAsync(env);
  exports.Set("describe", Napi::Function::New<describe>(env));
  exports.Set("call", plainFunction(env, "call", callSync));
  exports.Set("callAsync", plainFunction(env, "callAsync", callAsync));
  exports.Set("cancel", Napi::Function::New<cancel>(env));
  exports.Set("getNumThreads", Napi::Function::New<getThreads>(env));
  exports.Set("setNumThreads", Napi::Function::New<setThreads>(env));
  exportHandles(env, exports);
  exportCaches(env, exports);
  exportLora(env, exports);
  exportDevices(env, exports);
  exportMachine(env, exports);
  return exports;
}

}  // namespace

Environment::Environment(Napi::Env env) : async(std::make_shared<AsyncContext>()) {
  float32Array_ = Napi::Persistent(env.Global().Get("Float32Array").As<Napi::Function>());
  uint16Array_ = Napi::Persistent(env.Global().Get("Uint16Array").As<Napi::Function>());
  int32Array_ = Napi::Persistent(env.Global().Get("Int32Array").As<Napi::Function>());
}

napi_value Environment::newArray(Napi::Env env, DType dtype, int64_t length) const {
  napi_value count, array;
  check(env, napi_create_double(env, static_cast<double>(length), &count));
  const Napi::FunctionReference& constructor = dtype == DType::F32   ? float32Array_
                                               : dtype == DType::I32 ? int32Array_
                                                                     : uint16Array_;
  if (napi_new_instance(env, constructor.Value(), 1, &count, &array) == napi_ok) return array;
  napi_value exception;
  napi_get_and_clear_last_exception(env, &exception);
  return nullptr;
}

}  // namespace rankone

static Napi::Object initAddon(Napi::Env env, Napi::Object exports) { return rankone::init(env, exports); }
NODE_API_MODULE(rankone, initAddon)
