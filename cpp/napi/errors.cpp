#include "napi/errors.h"

#include <new>
#include <string>

namespace rankone {

Napi::Error jsError(Napi::Env env, const char* function, std::exception_ptr problem) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return Napi::Error::New(env);
  const std::string prefix = std::string("[") + function + "] ";
  try {
    std::rethrow_exception(problem);
  } catch (const Napi::Error& e) {
    return e;
  } catch (const Error& e) {
    const std::string text = prefix + e.what();
    if (e.kind == ErrorKind::Type) return Napi::TypeError::New(env, text);
    if (e.kind == ErrorKind::Range) return Napi::RangeError::New(env, text);
    Napi::Error error = Napi::Error::New(env, text);
    if (e.kind == ErrorKind::Abort) {
      error.Set("name", "AbortError");
      error.Set("code", "ABORT_ERR");
    }
    return error;
  } catch (const std::bad_alloc&) {
    return Napi::RangeError::New(env, prefix + "out of memory");
  } catch (const std::exception& e) {
    return Napi::Error::New(env, prefix + "internal error: " + e.what());
  }
}

}  // namespace rankone
