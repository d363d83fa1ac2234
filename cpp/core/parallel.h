// The engine's own thread pool. libuv's is never used: long jobs there would hold up `fs` and `dns`.
//
// parallelFor() splits a loop whose tasks are fixed by shape alone; which thread runs which task is left open, so a
// task must write only what is its own. The calling thread takes part. Nested calls run their tasks on the caller.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace rankone {

int numThreads();
void setNumThreads(int n);  // 1 .. 1024

using CancelFlag = std::atomic<bool>;

// A loop's body, by reference: any callable, alive while the loop runs.
class TaskBody {
 public:
  template <class F>
  TaskBody(const F& body)
      : body_(&body), call_([](const void* f, int64_t task) { (*static_cast<const F*>(f))(task); }) {}
  void operator()(int64_t task) const { call_(body_, task); }

 private:
  const void* body_;
  void (*call_)(const void*, int64_t);
};

// Runs body(task) for 0 <= task < tasks. An exception of a task stops the loop and is thrown again here. A raised
// cancel flag stops it between tasks (and long tasks poll it themselves) and throws Error(Abort).
void parallelFor(int64_t tasks, const CancelFlag* cancel, TaskBody body);

// Runs a job on a pool thread, outside the caller's. Used by asynchronous calls.
void submitJob(std::function<void()> job);

}  // namespace rankone
