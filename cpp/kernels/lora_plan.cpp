#include "kernels/lora_plan.h"

#include <algorithm>

namespace rankone {

RankPlan planRanks(const LoraArgs& args, int tileRows) {
  struct Entry {
    int32_t slot, row, place;
  };
  RankPlan plan;
  const int64_t tiles = (args.rows + tileRows - 1) / tileRows;
  plan.begin.reserve(static_cast<size_t>(tiles) + 1);
  std::vector<Entry> entries;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    plan.begin.push_back(static_cast<int64_t>(plan.groups.size()));
    if (!args.slots) continue;
    entries.clear();
    const int64_t first = tile * tileRows, rows = std::min<int64_t>(tileRows, args.rows - first);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < args.perRow; ++j) {
        const int32_t slot = args.slots[(first + i) * args.perRow + j];
        if (slot >= 0) entries.push_back({slot, static_cast<int32_t>(i), static_cast<int32_t>(j)});
      }
    const auto before = [](const Entry& a, const Entry& b) {
      return a.slot != b.slot ? a.slot < b.slot : a.row < b.row;
    };
    if (!std::is_sorted(entries.begin(), entries.end(), before))
      std::stable_sort(entries.begin(), entries.end(), before);
    for (size_t k = 0; k < entries.size(); ++k) {
      const Entry& e = entries[k];
      if (k == 0 || entries[k - 1].slot != e.slot || entries[k - 1].row == e.row)
        plan.groups.push_back({e.slot, static_cast<int32_t>(k), 0, {}, {}});
      RankGroup& g = plan.groups.back();
      g.row[g.count] = static_cast<uint8_t>(e.row);
      g.place[g.count++] = e.place;
    }
  }
  plan.begin.push_back(static_cast<int64_t>(plan.groups.size()));
  return plan;
}

}  // namespace rankone
