#pragma once
#include <napi.h>

#include "napi/arguments.h"

namespace rankone {

// call(entry, header, data): validates, computes on the caller's thread and memory, returns the outputs as typed arrays
// in the spec's order (null where there is none, or the caller's own from `out`), then `saved`.
Napi::Value callSync(const Napi::CallbackInfo& info);

// callAsync(entry, header, data): validates and copies now, returns a promise of the same. Shapes stand in the header
// at once, and so does the job's number for cancel(job).
Napi::Value callAsync(const Napi::CallbackInfo& info);
Napi::Value cancel(const Napi::CallbackInfo& info);

// Makes the environment's channel from the pool's threads back to its own. When the environment ends, the cancel flags
// are raised and the kernels that are running waited for.
void openAsync(Napi::Env env);

// The outputs' arrays: new ones where there is no memory yet, the caller's own from `out`, null where there is no
// output. No code of the caller's runs.
std::vector<napi_value> allocateOutputs(Napi::Env env, const Arguments& arguments, Call& call);

}  // namespace rankone
