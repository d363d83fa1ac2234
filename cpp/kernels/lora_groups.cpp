#include "kernels/lora_groups.h"

#include <algorithm>

namespace rankone {

LoraGroups::LoraGroups(const LoraArgs& args, int64_t row0, int64_t count) {
  struct Item {
    int32_t slot, adapter, row;
  };
  std::vector<Item> items;
  if (args.slots)
    for (int64_t j = 0; j < args.perRow; ++j)
      for (int64_t i = 0; i < count; ++i) {
        const int32_t adapter = args.slots[(row0 + i) * args.perRow + j];
        if (adapter >= 0) items.push_back({static_cast<int32_t>(j), adapter, static_cast<int32_t>(i)});
      }
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.slot != b.slot ? a.slot < b.slot : a.adapter < b.adapter;
  });
  rows.reserve(items.size());
  for (const Item& item : items) {
    if (groups.empty() || groups.back().slot != item.slot || groups.back().adapter != item.adapter) {
      LoraGroup g{};
      g.adapter = item.adapter;
      g.slot = item.slot;
      g.first = static_cast<int64_t>(rows.size());
      groups.push_back(g);
      byAdapter.push_back(static_cast<int32_t>(byAdapter.size()));
    }
    ++groups.back().count;
    rows.push_back(item.row);
  }
  std::stable_sort(byAdapter.begin(), byAdapter.end(),
                   [&](int32_t a, int32_t b) { return groups[a].adapter < groups[b].adapter; });
  for (size_t i = 0; i < byAdapter.size(); ++i) {
    const int32_t adapter = groups[byAdapter[i]].adapter;
    if (uses.empty() || uses.back().adapter != adapter) uses.push_back({adapter, static_cast<int64_t>(i), 0});
    ++uses.back().count;
  }
}

std::vector<LoraPiece> LoraGroups::pieces(int64_t items) const {
  std::vector<LoraPiece> list;
  for (size_t g = 0; g < groups.size(); ++g)
    for (int64_t i = 0; i < groups[g].count; i += items)
      list.push_back({static_cast<int32_t>(g), i, std::min(items, groups[g].count - i)});
  return list;
}

std::vector<LoraSumJob> LoraGroups::sums(const LoraArgs& args, const LoraGradients& gradients, int64_t columns) const {
  constexpr int64_t kStrips = 8;  // of a job
  std::vector<LoraSumJob> list;
  for (size_t u = 0; u < uses.size(); ++u) {
    const LoraAdapter& a = *args.adapters[uses[u].adapter];
    const LoraAdapterGradient& g = gradients.adapters[uses[u].adapter];
    const auto add = [&](LoraSum kind, int64_t size) {
      const int64_t strips = (size + columns - 1) / columns;
      for (int64_t s = 0; s < strips; s += kStrips)
        list.push_back({kind, static_cast<int32_t>(u), s, std::min(strips, s + kStrips)});
    };
    if (g.a && !a.aIndex) add(LoraSum::A, args.in);
    if (g.b && !a.bIndex) add(LoraSum::B, args.out);
    if (g.mid && a.mid) add(LoraSum::Mid, a.rank);
    if (g.rankBias || g.scale || (g.mid && a.midDiagonal)) add(LoraSum::Ranks, 1);
    if (g.outBias || g.baseScale) add(LoraSum::Outputs, args.out);
  }
  return list;
}

}  // namespace rankone
