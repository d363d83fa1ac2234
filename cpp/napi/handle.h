// What all engine-owned objects in JavaScript's hands have in common.
#pragma once
#include <napi.h>

#include <memory>

#include "core/error.h"
#include "napi/errors.h"

namespace rankone {

template <class T>
struct Handle {
  std::shared_ptr<T> object;
  int64_t bytes = 0;  // what the garbage collector has been told about
};

inline int64_t account(napi_env env, int64_t bytes) {
  int64_t total = 0;
  napi_adjust_external_memory(env, bytes, &total);
  return total;
}

template <class T>
void drop(napi_env env, Handle<T>& handle) {
  account(env, -handle.bytes);
  handle.bytes = 0;
  handle.object.reset();
}

template <class T>
napi_value wrap(Napi::Env env, std::shared_ptr<T> object, size_t bytes, const napi_type_tag& tag) {
  napi_value value;
  check(env, napi_create_object(env, &value));
  check(env, napi_type_tag_object(env, value, &tag));
  auto handle = std::make_unique<Handle<T>>();
  handle->object = std::move(object);
  handle->bytes = static_cast<int64_t>(bytes);
  const auto finalize = [](napi_env e, void* data, void*) {
    std::unique_ptr<Handle<T>> owned(static_cast<Handle<T>*>(data));
    drop(e, *owned);
  };
  check(env, napi_wrap(env, value, handle.get(), finalize, nullptr, nullptr));
  account(env, handle.release()->bytes);
  return value;
}

template <class T>
Handle<T>& unwrap(Napi::Env env, napi_value value, const napi_type_tag& tag, const char* argument,
                  const char* expected) {
  bool tagged = false;
  void* data = nullptr;
  napi_valuetype type;  // asked first: the check throws where it finds no object
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_object ||
      napi_check_object_type_tag(env, value, &tag, &tagged) != napi_ok || !tagged ||
      napi_unwrap(env, value, &data) != napi_ok || !data)
    fail(ErrorKind::Type, "%s: expected %s", argument, expected);
  return *static_cast<Handle<T>*>(data);
}

// The caller's Float32Array of exactly so many elements.
inline float* floatsOf(Napi::Env env, napi_value value, const char* name, int64_t count) {
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != napi_float32_array)
    fail(ErrorKind::Type, "%s: expected a Float32Array", name);
  if (static_cast<int64_t>(length) != count)
    fail(ErrorKind::Range, "%s: expected %lld numbers, got %zu%s", name, static_cast<long long>(count), length,
         length ? "" : " (a detached or shrunk array has none)");
  return static_cast<float*>(data);
}

}  // namespace rankone
