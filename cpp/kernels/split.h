// How a loop over items is cut into tasks for parallelFor(): by shape alone, so that the cut never depends on the
// number of threads, and with enough work in a task to be worth waking a thread for.
#pragma once
#include <algorithm>
#include <cstdint>

namespace rankone {

struct Split {
  int64_t items = 0, perTask = 1, tasks = 0;
  int64_t begin(int64_t task) const { return task * perTask; }
  int64_t end(int64_t task) const { return std::min(items, (task + 1) * perTask); }
};

// `cost` is an item's work in flops, or in bytes moved times two or so.
inline Split splitWork(int64_t items, int64_t cost) {
  constexpr double kTaskCost = 131072, kMaxTasks = 4096;
  const double each = std::max(1.0, std::max(kTaskCost / std::max<double>(1, cost), items / kMaxTasks));
  Split s;
  s.items = items;
  s.perTask = each >= items ? std::max<int64_t>(1, items) : static_cast<int64_t>(each);
  s.tasks = (items + s.perTask - 1) / s.perTask;
  return s;
}

}  // namespace rankone
