#include <algorithm>

#include "kernels/attention_plan.h"
#include "kernels/local_linear.h"

namespace rankone {

LocalLinearPlan planLocalLinear(const AttentionArgs& a) {
  constexpr int64_t kLeastRows = 32, kMostRows = 128, kTasks = 16;  // of a sequence at least, where it has the rows
  constexpr double kIterations = 16;                                // a guess, for the cost
  LocalLinearPlan plan;
  double flops = 0;
  const int64_t group = a.H / a.HKV;
  for (const AttentionSequence& s : *a.sequences) {
    const int64_t rows = s.T * group;
    const int64_t step = std::clamp(s.T * a.H / kTasks / kLeastRows * kLeastRows, kLeastRows, kMostRows);
    for (int64_t head = 0; head < a.HKV; ++head)
      // The last ones see the most keys of a causal mask.
      for (int64_t row = (rows - 1) / step * step; row >= 0 && rows > 0; row -= step) {
        const LocalLinearItem item{&s, head, row, std::min(step, rows - row)};
        const VisibleKeys seen =
            visibleKeys(a.mask, s.offset() + row / group, s.offset() + (row + item.rows - 1) / group, s.keys());
        for (const KeyRange& r : seen.range)
          flops += static_cast<double>(item.rows * r.count()) * (4 * kIterations * static_cast<double>(a.K));
        plan.items.push_back(item);
      }
  }
  plan.cost = static_cast<int64_t>(std::min(1e15, flops / static_cast<double>(std::max<size_t>(1, plan.items.size()))));
  return plan;
}

}  // namespace rankone
