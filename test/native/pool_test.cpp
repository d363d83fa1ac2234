// The thread pool under load, most of all for ThreadSanitizer: loops and jobs from many threads at once, cancellation
// and changes of the thread count while they run.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "check.h"
#include "core/parallel.h"
#include "grid.h"
#include "kernels/thread_rates.h"
#include "samples.h"

namespace rankone::test {
namespace {

using namespace std::chrono_literals;

// Runs body(i) on `count` threads at once. The first exception of one is thrown again here.
template <class F>
void onThreads(int count, F&& body) {
  std::vector<std::thread> threads;
  std::mutex lock;
  std::exception_ptr error;
  for (int i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      try {
        body(i);
      } catch (...) {
        std::lock_guard<std::mutex> hold(lock);
        if (!error) error = std::current_exception();
      }
    });
  for (std::thread& t : threads) t.join();
  if (error) std::rethrow_exception(error);
}

// Changes the thread count until the end of its scope.
class Restless {
 public:
  Restless()
      : before_(numThreads()), thread_([this] {
          for (int n = 1; !stop_.load(); n = n % 5 + 1) {
            setNumThreads(n);
            std::this_thread::sleep_for(200us);
          }
        }) {}
  ~Restless() {
    stop_.store(true);
    thread_.join();
    setNumThreads(before_);
  }

 private:
  const int before_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Jobs on the pool, and a wait for all of them.
class Jobs {
 public:
  void submit(std::function<void()> body) {
    {
      std::lock_guard<std::mutex> hold(lock_);
      ++open_;
    }
    submitJob([this, body = std::move(body)] {
      body();
      std::lock_guard<std::mutex> hold(lock_);
      if (--open_ == 0) done_.notify_all();
    });
  }
  void wait() {
    std::unique_lock<std::mutex> hold(lock_);
    check(done_.wait_for(hold, 600s, [&] { return open_ == 0; }), "%d jobs have not ended", open_);
  }

 private:
  std::mutex lock_;
  std::condition_variable done_;
  int open_ = 0;
};

bool aborted(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    if (e.kind == ErrorKind::Abort) return true;
    throw;
  }
  return false;
}

TEST("pool: loops from many threads while the thread count changes") {
  const Restless restless;
  onThreads(6, [](int thread) {
    for (int round = 0; round < 60; ++round) {
      const int64_t tasks = 1 + (thread * 37 + round * 11) % 97;
      std::vector<int64_t> seen(tasks);  // plain memory: each task writes its own
      parallelFor(tasks, nullptr, [&](int64_t task) { seen[task] += task + 1; });
      for (int64_t i = 0; i < tasks; ++i) check(seen[i] == i + 1, "task %d ran otherwise than once", int(i));
    }
  });
}

TEST("pool: loops within loops") {
  onThreads(3, [](int) {
    std::vector<std::vector<int>> seen(20, std::vector<int>(30));
    parallelFor(20, nullptr, [&](int64_t i) { parallelFor(30, nullptr, [&](int64_t j) { ++seen[i][j]; }); });
    for (const auto& row : seen)
      for (int count : row) check(count == 1, "a task ran %d times", count);
  });
}

TEST("pool: an exception of a task ends its loop and no other") {
  onThreads(4, [](int thread) {
    for (int round = 0; round < 30; ++round) {
      std::atomic<int> ran{0};
      bool thrown = false;
      try {
        parallelFor(200, nullptr, [&](int64_t task) {
          ++ran;
          if (thread % 2 && task == 20) throw std::runtime_error("task 20");
        });
      } catch (const std::runtime_error& e) {
        thrown = !std::strcmp(e.what(), "task 20");
      }
      check(thrown == (thread % 2 == 1), "thread %d: thrown %d", thread, thrown);
      if (!thrown) check(ran == 200, "%d of 200 tasks ran", ran.load());
    }
  });
}

TEST("pool: jobs that are cancelled while they run") {
  const Restless restless;
  Sizes s{2, 400, 2, 2, 33, 40, 1, Gate::Channel, true};
  const GridProblem p = drawProblem(s, Numbers::Mild, true, 31);
  const Invocation forward = forwardCall(p), backward = backwardCall(p);
  const Results expected = forward.run();
  constexpr int kJobs = 24;
  std::vector<CancelFlag> cancel(kJobs);
  std::atomic<int> stopped{0}, whole{0}, wrong{0};
  Jobs jobs;
  for (int i = 0; i < kJobs; ++i)
    jobs.submit([&, i] {
      try {
        Invocation call = i % 2 ? forward : backward;
        const Results results = call.cancel(cancel[i]).run();
        ++whole;
        if (i % 2 && !results["o"].sameBits(expected["o"])) ++wrong;
      } catch (const Error& e) {
        ++(e.kind == ErrorKind::Abort ? stopped : wrong);
      } catch (...) {
        ++wrong;
      }
    });
  for (int i = 0; i < kJobs; i += 3) {
    std::this_thread::sleep_for(2ms);
    cancel[i].store(true);
  }
  jobs.wait();
  check(wrong == 0, "%d jobs went wrong", wrong.load());
  check(stopped + whole == kJobs, "%d stopped and %d whole of %d", stopped.load(), whole.load(), kJobs);
  check(whole >= kJobs - kJobs / 3, "%d whole", whole.load());
}

TEST("pool: a raised flag stops every function that has work") {
  const CancelFlag raised{true};
  for (const Entry& entry : entries())
    check(aborted([&] { sampleCall(entry.name).cancel(raised).run(); }), "%s ran to its end", entry.name);
}

TEST("pool: every function from several threads, always the same bits") {
  const Restless restless;
  std::vector<std::pair<std::string, Results>> expected;
  for (const Entry& entry : entries()) {
    const Invocation call = sampleCall(entry.name);
    expected.emplace_back(entry.name, call.run());
  }
  onThreads(4, [&](int thread) {
    for (int round = 0; round < (quick() ? 2 : 6); ++round)
      for (size_t i = 0; i < expected.size(); ++i) {
        const auto& [name, first] = expected[(i * 7 + thread * 13) % expected.size()];
        const Results again = sampleCall(name).run();
        for (const auto& [output, array] : first.outputs)
          check(array.sameBits(again[output]), "%s: other bits of %s", name.c_str(), output.c_str());
      }
  });
}

TEST("pool: backwards that share what a forward saved") {
  Sizes s{2, 90, 2, 4, 33, 40, 1, Gate::Token, true};
  const GridProblem p = drawProblem(s, Numbers::Mild, true, 32);
  const auto saved = forwardCall(p).set("saveForBackward", 1).run().saved;
  const Results first = backwardCall(p).saved(saved).run();
  onThreads(4, [&](int) {
    const Results again = backwardCall(p).saved(saved).run();
    for (const auto& [output, array] : first.outputs) check(array.sameBits(again[output]), "%s", output.c_str());
  });
}

TEST("pool: one state, many takers") {
  StateBuffer state(1, 2, 9, 5, 0);
  std::atomic<int> served{0}, refused{0};
  Sizes s{1, 40, 1, 2, 9, 5, 1, Gate::Token, true};
  const GridProblem p = drawProblem(s, Numbers::Mild, false, 33);
  onThreads(4, [&](int) {
    for (int round = 0; round < 20; ++round) {
      try {
        forwardCall(p).state(state).run();
        ++served;
      } catch (const Error& e) {
        check(e.kind == ErrorKind::State, "%s", e.what());
        ++refused;
      }
    }
  });
  check(served > 0 && served + refused == 80, "%d served, %d refused", served.load(), refused.load());
}

TEST("pool: rates of threads add up, those of one thread's tasks do not") {
  ThreadRates rates(3);
  onThreads(3, [&](int) {
    rates.meet();
    rates.add(6, 2);
    rates.add(2, 2);
  });
  check(rates.total() == 6, "three threads of 8 in 4 ns: %g", rates.total());
  ThreadRates alone(2);
  alone.meet();  // nobody else comes
  alone.add(6, 2);
  alone.add(2, 2);
  check(alone.total() == 2, "one thread of 8 in 4 ns: %g", alone.total());
}

}  // namespace
}  // namespace rankone::test
