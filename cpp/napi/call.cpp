#include "napi/call.h"

#include <cstring>

#include "core/workspace.h"
#include "napi/environment.h"
#include "napi/errors.h"

namespace rankone {

std::vector<napi_value> allocateOutputs(Napi::Env env, const Arguments& arguments, Call& call) {
  const size_t count = call.spec->outputs.size();
  std::vector<napi_value> results;
  for (size_t i = 0; i < count; ++i) {
    Tensor& t = call.outputs[i];
    napi_value array;
    if (!t.present()) {
      array = env.Null();
    } else if (arguments.outGiven(static_cast<int>(i))) {
      array = arguments.output(static_cast<int>(i));
    } else {
      array = Environment::of(env).newArray(env, t.dtype, t.size());
      ArrayView view;
      if (!array || !viewOf(env, array, view) || static_cast<int64_t>(view.length) != t.size())
        fail(ErrorKind::Range, "%s: out of memory for shape %s", call.spec->outputs[i].name, t.shapeText().c_str());
      t.data = view.data;
    }
    results.push_back(array);
    if (t.present() && t.data && poisonRequested()) std::memset(t.data, 0xff, t.bytes());  // NaN in every float type
  }
  return results;
}

Napi::Value callSync(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const char* name = "rankone";
  return guarded(env, "rankone", [&] {
    const Arguments arguments(env, info);
    name = arguments.entry().name;
    try {
      Call call;
      StateHold state;
      std::vector<AlignedBuffer> copies;
      arguments.read(call, state, copies);
      call.spec->plan(call);
      arguments.bindOut(call);
      const std::vector<napi_value> arrays = allocateOutputs(env, arguments, call);
      try {
        call.spec->run(call);
      } catch (...) {
        state.poison();
        throw;
      }
      arguments.reportOutputs(call);
      // Assigned when no pointer is in use any more, as that can run code of the caller's.
      napi_value results;
      check(env, napi_create_array_with_length(env, arrays.size() + 1, &results));
      for (size_t i = 0; i < arrays.size(); ++i)
        check(env, napi_set_element(env, results, static_cast<uint32_t>(i), arrays[i]));
      if (call.spec->makesSaved && call.saved)
        check(env, napi_set_element(env, results, static_cast<uint32_t>(arrays.size()),
                                    wrapSaved(env, std::move(call.saved))));
      return Napi::Value(env, results);
    } catch (...) {
      throw jsError(env, name, std::current_exception());
    }
  });
}

}  // namespace rankone
