#include "napi/call.h"

#include <cstring>

#include "core/workspace.h"
#include "napi/devices.h"
#include "napi/environment.h"
#include "napi/errors.h"

namespace rankone {

void allocateOutputs(Napi::Env env, const Arguments& arguments, Call& call, napi_value* arrays) {
  const size_t count = call.spec->outputs.size();
  for (size_t i = 0; i < count; ++i) {
    Tensor& t = call.outputs[i];
    if (!t.present()) {
      arrays[i] = env.Null();
    } else if (arguments.outGiven(static_cast<int>(i))) {
      arrays[i] = arguments.output(static_cast<int>(i));
    } else if (call.device && (kFloats & dtypeBit(t.dtype))) {
      auto memory = std::make_shared<cuda::Buffer>(call.device, t.bytes());
      t.data = memory->data();
      call.memory.push_back(memory);
      arrays[i] = wrapDevice(env, {std::move(memory), 0, t.dtype, t.size()});
      continue;
    } else {
      arrays[i] = Environment::of(env).newArray(env, t.dtype, t.size());
      ArrayView view;
      if (!arrays[i] || !viewOf(env, arrays[i], view) || static_cast<int64_t>(view.length) != t.size())
        fail(ErrorKind::Range, "%s: out of memory for shape %s", call.spec->outputs[i].name, t.shapeText().c_str());
      t.data = view.data;
    }
    const bool onDevice = call.device && (kFloats & dtypeBit(t.dtype));
    if (!onDevice && t.present() && t.data && poisonRequested())
      std::memset(t.data, 0xff, t.bytes());  // NaN in every float type
  }
}

namespace {

napi_value resultsOf(Napi::Env env, const Arguments& arguments, Call& call, const napi_value* arrays) {
  const size_t count = call.spec->outputs.size();
  napi_value made = nullptr;
  int fresh = 0;
  for (size_t i = 0; i < count; ++i)
    if (call.outputs[i].present() && !arguments.outGiven(static_cast<int>(i))) {
      made = arrays[i];
      ++fresh;
    }
  const bool saved = call.spec->makesSaved && call.saved;
  const bool packed = call.spec->makesBase;
  const header::Results results = fresh > 1 || saved || packed ? header::kAll
                                  : fresh == 1                 ? header::kOne
                                                               : header::kNothing;
  arguments.reportOutputs(call, results);
  if (results != header::kAll) return made;
  // Assigned when no pointer is in use any more, as that can run code of the caller's.
  napi_value all;
  check(env, napi_create_array_with_length(env, count + 1, &all));
  for (size_t i = 0; i < count; ++i) check(env, napi_set_element(env, all, static_cast<uint32_t>(i), arrays[i]));
  if (saved)
    check(env, napi_set_element(env, all, static_cast<uint32_t>(count), wrapSaved(env, std::move(call.saved))));
  if (packed)
    check(env, napi_set_element(env, all, static_cast<uint32_t>(count), wrapPacked(env, std::move(call.packed))));
  return all;
}

}  // namespace

napi_value callSync(napi_env rawEnv, napi_callback_info info) {
  const Napi::Env env(rawEnv);
  return answered(env, "rankone", [&] {
    const Arguments arguments(env, info);
    return guarded(env, arguments.entry().name, [&] {
      Call call;
      Holds holds;
      std::vector<AlignedBuffer> copies;
      arguments.read(call, holds, copies);
      call.spec->plan(call);
      arguments.bindOut(call);
      napi_value arrays[kMaxOutputs];
      allocateOutputs(env, arguments, call, arrays);
      try {
        execute(call);
      } catch (...) {
        holds.state.poison();
        throw;
      }
      const napi_value results = resultsOf(env, arguments, call, arrays);
      arguments.account(call);
      return results;
    });
  });
}

}  // namespace rankone
