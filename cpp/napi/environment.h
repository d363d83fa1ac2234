// What one JavaScript environment (the main thread, a worker) has of its own: the constructors of results and the
// asynchronous calls that are under way.
#pragma once
#include <napi.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/cuda.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct Task;

// Shared with other threads, which may finish a task after the environment is gone.
struct AsyncContext {
  std::mutex lock;
  std::condition_variable idle;
  napi_threadsafe_function finished = nullptr;  // under lock: whether it may still be called is `closed`
  bool closed = false;                          // under lock
  int running = 0;                              // under lock: jobs inside a kernel

  // The environment's thread only.
  std::unordered_map<uint64_t, std::shared_ptr<Task>> tasks;
  uint64_t lastTask = 0;
  std::map<int, std::shared_ptr<cuda::Context>> devices;
};

struct Environment {
  explicit Environment(Napi::Env env);

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  // A new Float32Array, a Uint16Array for the half-width types or an Int32Array, by the constructor as it was at load:
  // out of memory is then an exception, not the end. Null when there is no memory or no array of that length.
  napi_value newArray(Napi::Env env, DType dtype, int64_t length) const;

  std::shared_ptr<AsyncContext> async;

 private:
  Napi::FunctionReference float32Array_, uint16Array_, int32Array_;
};

}  // namespace rankone
