#include "kernels/attention_plan.h"

#include <algorithm>

namespace rankone {
namespace {

constexpr int64_t kFewKeys = 512;    // of a part, where rows are few
constexpr int64_t kFewItems = 4;     // for every thread at least, where heads and parts are as many
constexpr int64_t kFewBytes = 8192;  // of a token that an item reads in one piece, where that leaves enough items
constexpr int64_t kHeadsRows = 32;   // of an item at most, whose sums and scores stay in L1
constexpr int64_t kPartKeys = 2016;  // of a part, where there is but one block of rows
constexpr int64_t kMostRows = 256, kLeastRows = 64, kRowStep = 32;
constexpr int64_t kForwardTasks = 16;  // of a sequence at least, where it has the rows
constexpr int64_t kBackwardParts = 8;  // tasks of a sequence at least, where it has the keys
constexpr int64_t kBackwardKeys = 480;

int64_t divideUp(int64_t n, int64_t by) { return (n + by - 1) / by; }

int64_t averageCost(double flops, size_t items) {
  return static_cast<int64_t>(std::min(1e15, flops / static_cast<double>(std::max<size_t>(1, items))));
}

class Planner {
 public:
  Planner(const AttentionArgs& args, int64_t width) : a_(args), group_(args.H / args.HKV), width_(width) {}

  AttentionPlan plan() {
    int64_t parts = 0;
    for (const AttentionSequence& s : *a_.sequences) parts += isFew(s) ? fewParts(s) : 0;
    for (const AttentionSequence& s : *a_.sequences) {
      const int64_t heads = isFew(s) ? headsOfItem(s, parts) : 1;
      for (int64_t head = 0; head < a_.HKV; head += heads) add(s, head, std::min(heads, a_.HKV - head));
    }
    plan_.cost = averageCost(flops_, plan_.items.size());
    return std::move(plan_);
  }

 private:
  bool isFew(const AttentionSequence& s) const { return s.T * group_ <= kAttentionFewRows; }
  static int64_t fewParts(const AttentionSequence& s) {
    return s.keys() <= 2 * kFewKeys ? 1 : divideUp(s.keys(), kFewKeys);
  }

  // In a tensor the heads of a token stand side by side, its neighbour in time further off: a head by itself is read in
  // small pieces that are all over the memory, and every page as often as it has heads.
  int64_t headsOfItem(const AttentionSequence& s, int64_t parts) const {
    if (s.cached > 0) return 1;
    const int64_t rows = std::max<int64_t>(1, s.T * group_);
    const int64_t bytes = std::max(a_.K, a_.V) * static_cast<int64_t>(dtypeSize(a_.keyDType));
    const int64_t most = std::min({kFewBytes / bytes, kHeadsRows / rows, parts * a_.HKV / (kFewItems * numThreads())});
    return divideUp(a_.HKV, divideUp(a_.HKV, std::clamp<int64_t>(most, 1, a_.HKV)));
  }

  void add(const AttentionSequence& s, int64_t head, int64_t heads) {
    const int64_t rows = s.T * group_;
    if (isFew(s)) return addRows(s, head, heads, 0, rows, kFewKeys);
    const int64_t share = s.T * a_.H / kForwardTasks / kRowStep * kRowStep;
    const int64_t most = std::clamp(share, kLeastRows, kMostRows);
    const int64_t blocks = divideUp(rows, most);
    // The last ones see the most keys of a causal mask.
    for (int64_t b = blocks - 1; b >= 0; --b)
      addRows(s, head, 1, b * most, std::min(most, rows - b * most), blocks == 1 ? kPartKeys : 0);
  }

  // partKeys 0: never split.
  void addRows(const AttentionSequence& s, int64_t head, int64_t heads, int64_t row, int64_t rows, int64_t partKeys) {
    if (rows == 0) return;
    const int64_t low = s.offset() + row / group_, high = s.offset() + (row + rows - 1) / group_;
    const VisibleKeys seen = visibleKeys(a_.mask, low, high, s.keys());
    const int64_t first = static_cast<int64_t>(plan_.items.size());
    const auto put = [&](KeyRange keys) {
      plan_.items.push_back({&s, head, heads, row, rows, keys, -1});
      for (const KeyRange& r : seen.range) {
        const KeyRange both{std::max(r.begin, keys.begin), std::min(r.end, keys.end)};
        flops_ += 2.0 * static_cast<double>(heads * rows * (a_.K + a_.V)) * static_cast<double>(both.count());
      }
    };
    if (partKeys == 0 || s.keys() <= 2 * partKeys) {
      put({0, s.keys()});
      return;
    }
    for (int64_t begin = 0; begin < s.keys(); begin += partKeys) {
      const KeyRange keys{begin, std::min(s.keys(), begin + partKeys)};
      if (seesAny(a_.mask, low, high, keys)) put(keys);
    }
    const int64_t parts = static_cast<int64_t>(plan_.items.size()) - first;
    if (parts == 0) return put({0, 0});
    if (parts == 1) return;
    for (int64_t i = first; i < first + parts; ++i) {
      plan_.items[static_cast<size_t>(i)].partial = plan_.partialFloats;
      plan_.partialFloats += heads * rows * (width_ + 16);
    }
    plan_.splits.push_back({first, parts});
  }

  const AttentionArgs& a_;
  const int64_t group_, width_;
  AttentionPlan plan_;
  double flops_ = 0;
};

}  // namespace

VisibleKeys visibleKeys(const AttentionMask& m, int64_t low, int64_t high, int64_t keys) {
  const int64_t end = std::max<int64_t>(0, m.causal ? std::min(keys, high + 1) : keys);
  const int64_t right = std::clamp<int64_t>(high + m.right + 1, 0, end);
  const int64_t left = std::clamp<int64_t>(low - m.left, 0, right);
  const int64_t first = std::min(m.first, end);
  return {{{0, std::min(first, left)}, {left, std::max(right, std::min(first, end))}}};
}

bool seesAll(const AttentionMask& m, int64_t low, int64_t high, KeyRange keys) {
  if (m.causal && keys.end - 1 > low) return false;
  return keys.end <= m.first || (keys.begin >= high - m.left && keys.end - 1 <= low + m.right);
}

bool seesAny(const AttentionMask& m, int64_t low, int64_t high, KeyRange keys) {
  if (m.causal && keys.begin > high) return false;
  return keys.begin < m.first || (keys.end - 1 >= low - m.left && keys.begin <= high + m.right);
}

AttentionPlan planAttention(const AttentionArgs& args, int64_t width) { return Planner(args, width).plan(); }

AttentionBackwardPlan planAttentionBackward(const AttentionArgs& a) {
  AttentionBackwardPlan plan;
  double flops = 0;
  for (const AttentionSequence& s : *a.sequences) {
    const int64_t most = std::max<int64_t>(1, divideUp(kBackwardParts, a.HKV));
    const int64_t parts = std::clamp<int64_t>(divideUp(s.S, kBackwardKeys), 1, most);
    const int64_t step = divideUp(divideUp(s.S, parts), kAttentionKeys) * kAttentionKeys;
    const int64_t queries = s.T * a.H * a.K;
    plan.parts.push_back(parts);
    plan.queries.push_back(plan.queryFloats);
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t head = 0; head < a.HKV; ++head) {
        const KeyRange keys{std::min(s.S, part * step), std::min(s.S, (part + 1) * step)};
        plan.items.push_back({&s, head, keys, plan.queryFloats + part * queries});
        flops += 10.0 * static_cast<double>(keys.count()) * static_cast<double>(s.T * a.H / a.HKV * (a.K + a.V));
      }
    plan.queryFloats += parts * queries;
  }
  plan.cost = averageCost(flops, plan.items.size());
  return plan;
}

}  // namespace rankone
