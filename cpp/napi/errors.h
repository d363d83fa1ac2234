// The engine's errors as JavaScript errors: "[gatedDeltaNet] beta: expected ..., got ...".
#pragma once
#include <napi.h>

#include <exception>

#include "core/error.h"

namespace rankone {

// Type -> TypeError, Range and out of memory -> RangeError, State -> Error, Abort -> an Error named AbortError. A
// JavaScript exception passes through as it is.
Napi::Error jsError(Napi::Env env, const char* function, std::exception_ptr problem);

// Runs body and turns what it throws into a JavaScript exception.
template <class Body>
auto guarded(Napi::Env env, const char* function, Body&& body) {
  try {
    return body();
  } catch (...) {
    throw jsError(env, function, std::current_exception());
  }
}

// Body's value to JavaScript, or what it throws: for callbacks that take their arguments from the engine themselves.
template <class Body>
napi_value answered(Napi::Env env, const char* function, Body&& body) {
  try {
    return guarded(env, function, body);
  } catch (const Napi::Error& error) {
    error.ThrowAsJavaScriptException();
    return nullptr;
  }
}

inline void check(Napi::Env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

}  // namespace rankone
