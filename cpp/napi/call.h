#pragma once
#include <napi.h>

#include "napi/arguments.h"

namespace rankone {

// call(entry, header, ...values): validates, computes on the caller's thread and memory, returns what header::Results
// says. These two are callbacks of the plain C interface: the C++ one allocates memory for more than six arguments.
napi_value callSync(napi_env env, napi_callback_info info);

// callAsync(entry, header, ...values): validates and copies now, returns a promise of header::kAll. Shapes stand in the
// header at once, and so does the job's number for cancel(job).
napi_value callAsync(napi_env env, napi_callback_info info);
Napi::Value cancel(const Napi::CallbackInfo& info);

// Makes the environment's channel from the pool's threads back to its own. When the environment ends, the cancel flags
// are raised and the kernels that are running waited for.
void openAsync(Napi::Env env);

// Fills arrays, one to an output: new ones where there is no memory yet, the caller's own from `out`, null where there
// is no output. On a device those of floats are DeviceTensors. No code of the caller's runs.
void allocateOutputs(Napi::Env env, const Arguments& arguments, Call& call, napi_value* arrays);

}  // namespace rankone
