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

// Runs body(task) for 0 <= task < tasks. An exception of a task stops the loop and is thrown again here. A raised
// cancel flag stops it between tasks (and long tasks poll it themselves) and throws Error(Abort).
void parallelFor(int64_t tasks, const CancelFlag* cancel, const std::function<void(int64_t)>& body);

// Runs a job on a pool thread, outside the caller's. Used by asynchronous calls.
void submitJob(std::function<void()> job);

}  // namespace rankone
