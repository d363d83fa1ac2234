// How much each thread of a loop gets done per nanosecond, added up.
#pragma once
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

namespace rankone {

// Every task has its own clock, so that a thread which wakes up late is not taken for a slow one. Tasks that one thread
// ran one after the other count as one.
class ThreadRates {
 public:
  explicit ThreadRates(int threads) : threads_(threads) {}

  // Waits for the tasks of the other threads, but not for long: the system may have none to give. Without that a short
  // window of the caller's is over before a sleeping thread has come, and the caller takes its task as well.
  void meet() {
    using Clock = std::chrono::steady_clock;
    const auto patience = Clock::now() + std::chrono::milliseconds(5);
    arrived_.fetch_add(1);
    while (arrived_.load() < threads_ && Clock::now() < patience) std::this_thread::yield();
  }

  void add(double amount, double ns) {
    std::lock_guard<std::mutex> hold(lock_);
    Part& part = parts_[std::this_thread::get_id()];
    part.amount += amount;
    part.ns += ns;
  }

  double total() const {
    double sum = 0;
    for (const auto& [thread, part] : parts_) sum += part.amount / part.ns;
    return sum;
  }

 private:
  struct Part {
    double amount = 0, ns = 0;
  };
  const int threads_;
  std::atomic<int> arrived_{0};
  std::mutex lock_;
  std::map<std::thread::id, Part> parts_;
};

}  // namespace rankone
