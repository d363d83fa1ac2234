// Work that ends on other threads and is settled on the environment's own.
#pragma once
#include <napi.h>

#include <memory>

#include "napi/environment.h"

namespace rankone {

struct Task {
  virtual ~Task() = default;
  // On the environment's thread, once, when the work has ended. Throws only while the environment is being terminated.
  virtual void settle(Napi::Env env) = 0;
  // Frees what is no longer needed: other threads may keep the task for a little longer.
  virtual void letGo() {}

  uint64_t number = 0;
  CancelFlag cancel{false};
  std::shared_ptr<AsyncContext> context;
  napi_deferred deferred = nullptr;
};

// Takes the task up among those that the environment waits for, with a number and the environment's context.
void enlist(Napi::Env env, const std::shared_ptr<Task>& task);
// Takes it out again, unsettled.
void withdraw(Napi::Env env, const std::shared_ptr<Task>& task);

// Of any thread: the work has ended.
void completed(Task& task);

// Runs body(error) on the thread of the device, once what is in the stream now is done, then completed(task). `error`
// is what went wrong before that. Enlists the task.
template <class Body>
void afterDevice(Napi::Env env, const std::shared_ptr<Task>& task, const std::shared_ptr<cuda::Context>& device,
                 Body body) {
  auto event = std::make_shared<cuda::Event>(device->record());
  enlist(env, task);
  try {
    device->later([task, device, event, body]() mutable {
      std::exception_ptr error;
      try {
        event->wait(device->name());
      } catch (...) {
        error = std::current_exception();
      }
      event.reset();
      body(error);
      completed(*task);
    });
  } catch (...) {
    withdraw(env, task);
    throw;
  }
}

}  // namespace rankone
