#include "core/parallel.h"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/error.h"

namespace rankone {
namespace {

// A loop under way. It lives on its caller's stack; `users` counts the pool threads inside it, and the caller leaves
// only when there are none.
struct Loop {
  Loop(TaskBody body, const CancelFlag* cancel, int64_t tasks) : body(body), cancel(cancel), tasks(tasks) {}

  const TaskBody body;
  const CancelFlag* cancel;
  const int64_t tasks;
  int seats = 0;  // how many more threads may join
  int users = 0;
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr error;
  std::mutex errorLock;

  void work() {
    while (!stop.load(std::memory_order_relaxed)) {
      const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks) return;
      if (cancel && cancel->load(std::memory_order_relaxed)) return stop.store(true);
      try {
        body(task);
      } catch (...) {
        std::lock_guard<std::mutex> hold(errorLock);
        if (!error) error = std::current_exception();
        stop.store(true);
      }
    }
  }
};

thread_local bool insideLoop = false;

class Pool {
 public:
  // Never destroyed: its threads may outlive static destructors and the environment of the addon.
  static Pool& get() {
    static Pool* pool = new Pool;
    return *pool;
  }

  int threads() {
    std::lock_guard<std::mutex> hold(lock_);
    return wanted_;
  }

  void setThreads(int n) {
    std::lock_guard<std::mutex> hold(lock_);
    wanted_ = n;
    wake_.notify_all();
  }

  void run(Loop& loop) {
    bool shared;
    {
      std::lock_guard<std::mutex> hold(lock_);
      loop.seats = static_cast<int>(std::min<int64_t>(wanted_, loop.tasks)) - 1;
      shared = loop.seats > 0;
      if (shared) {
        ensureWorkers(loop.seats);
        loops_.push_back(&loop);
      }
    }
    if (shared) wake_.notify_all();
    insideLoop = true;
    loop.work();
    insideLoop = false;
    std::unique_lock<std::mutex> hold(lock_);
    loops_.erase(std::remove(loops_.begin(), loops_.end(), &loop), loops_.end());
    done_.wait(hold, [&] { return loop.users == 0; });
  }

  void submit(std::function<void()> job) {
    {
      std::lock_guard<std::mutex> hold(lock_);
      ensureWorkers(wanted_);
      if (workers_ == 0) fail(ErrorKind::State, "the system grants no thread to compute on");
      jobs_.push_back(std::move(job));
    }
    wake_.notify_one();
  }

 private:
  Pool() {
    const char* v = std::getenv("RANKONE_NUM_THREADS");
    if (!v || !*v) {
      wanted_ = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 1024u));
      return;
    }
    char* end = nullptr;
    const long n = std::strtol(v, &end, 10);
    if (*end || n < 1 || n > 1024)
      fail(ErrorKind::Range, "RANKONE_NUM_THREADS=%.64s: expected an integer from 1 to 1024", v);
    wanted_ = static_cast<int>(n);
  }

  // Under lock_. A system that grants fewer threads than asked for is served by those it grants, but one is needed.
  void ensureWorkers(int n) {
    while (workers_ < n) {
      try {
        std::thread([this] { workerMain(); }).detach();
      } catch (const std::system_error&) {
        return;
      }
      ++workers_;
    }
  }

  void workerMain() {
    std::unique_lock<std::mutex> hold(lock_);
    for (;;) {
      wake_.wait(hold, [&] { return !loops_.empty() || (!jobs_.empty() && jobsRunning_ < wanted_); });
      if (!loops_.empty()) {  // running loops first: they hold up somebody already
        Loop* loop = loops_.front();
        if (--loop->seats <= 0) loops_.pop_front();
        ++loop->users;
        hold.unlock();
        insideLoop = true;
        loop->work();
        insideLoop = false;
        hold.lock();
        --loop->users;
        done_.notify_all();
        continue;
      }
      std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      ++jobsRunning_;
      hold.unlock();
      job();
      job = nullptr;
      hold.lock();
      --jobsRunning_;
      wake_.notify_one();
    }
  }

  std::mutex lock_;
  std::condition_variable wake_, done_;
  std::deque<Loop*> loops_;
  std::deque<std::function<void()>> jobs_;
  int wanted_ = 1, workers_ = 0, jobsRunning_ = 0;
};

}  // namespace

int numThreads() { return Pool::get().threads(); }

void setNumThreads(int n) {
  if (n < 1 || n > 1024) fail(ErrorKind::Range, "n: expected an integer from 1 to 1024, got %d", n);
  Pool::get().setThreads(n);
}

void parallelFor(int64_t tasks, const CancelFlag* cancel, TaskBody body) {
  const auto aborted = [cancel] { return cancel && cancel->load(std::memory_order_relaxed); };
  if (tasks <= 0) return;
  if (tasks == 1 || insideLoop) {
    for (int64_t task = 0; task < tasks; ++task) {
      if (aborted()) break;
      body(task);
    }
  } else {
    Loop loop(body, cancel, tasks);
    Pool::get().run(loop);
    if (loop.error) std::rethrow_exception(loop.error);
    if (loop.stop.load()) fail(ErrorKind::Abort, "aborted");
  }
  if (aborted()) fail(ErrorKind::Abort, "aborted");
}

void submitJob(std::function<void()> job) { Pool::get().submit(std::move(job)); }

}  // namespace rankone
