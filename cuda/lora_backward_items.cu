#include <algorithm>
#include <map>
#include <utility>

#include "lora_backward.h"

namespace rankone::cuda {

namespace {

constexpr int64_t alignRanks(int64_t ranks) { return (ranks + 7) / 8 * 8; }

}  // namespace

LoraItems::LoraItems(const RankoneLora& problem) : useOf(problem.adapterCount, -1) {
  if (!problem.slots) return;
  std::vector<int64_t> counts(problem.adapterCount);
  const int64_t places = problem.rows * problem.perRow;
  for (int64_t i = 0; i < places; ++i)
    if (problem.slots[i] >= 0) ++counts[problem.slots[i]];
  int64_t first = 0;
  for (int64_t e = 0; e < problem.adapterCount; ++e) {
    if (counts[e] == 0) continue;
    LoraUse use{};
    use.adapter = problem.adapters[e];
    use.first = first;
    use.count = counts[e];
    use.ldT = alignRanks(use.adapter.rank);
    use.ldW = alignRanks(use.adapter.midRank);
    use.t = t;
    use.w = w;
    t += use.count * use.ldT;
    w += use.count * use.ldW;
    first += use.count;
    mostRank = std::max(mostRank, use.adapter.rank);
    mostMidRank = std::max(mostMidRank, use.adapter.midRank);
    useOf[e] = static_cast<int32_t>(uses.size());
    uses.push_back(use);
  }
  items.resize(first);
  std::vector<int64_t> next;
  for (const LoraUse& use : uses) next.push_back(use.first);
  for (int64_t i = 0; i < places; ++i) {
    const int32_t adapter = problem.slots[i];
    if (adapter >= 0) items[next[useOf[adapter]]++] = {i / problem.perRow, i, useOf[adapter], adapter};
  }
}

std::vector<LoraItemTile> LoraItems::tiles(int64_t most, bool (*wanted)(const LoraUse&)) const {
  std::vector<LoraItemTile> list;
  for (size_t u = 0; u < uses.size(); ++u) {
    if (!wanted(uses[u])) continue;
    for (int64_t i = 0; i < uses[u].count; i += most)
      list.push_back({static_cast<int32_t>(u), static_cast<int32_t>(std::min(most, uses[u].count - i)), i});
  }
  return list;
}

std::vector<LoraTilePart> LoraItems::parts(const RankoneLora& problem, std::vector<int64_t>& first) const {
  std::vector<LoraTilePart> list;
  std::vector<int32_t> next(uses.size());                    // items that rows before have taken
  std::map<std::pair<int32_t, int64_t>, LoraTilePart> tile;  // by use, and how often the row has named it before
  first.assign(1, 0);
  for (int64_t row0 = 0; row0 < problem.rows; row0 += kRowTile) {
    tile.clear();
    const int64_t end = std::min<int64_t>(problem.rows, row0 + kRowTile);
    for (int64_t row = row0; problem.slots && row < end; ++row) {
      const int32_t* slots = problem.slots + row * problem.perRow;
      for (int64_t j = 0; j < problem.perRow; ++j) {
        if (slots[j] < 0) continue;
        const int32_t use = useOf[slots[j]];
        const auto [at, isNew] = tile.try_emplace({use, std::count(slots, slots + j, slots[j])});
        LoraTilePart& part = at->second;
        if (isNew) {
          part.use = use;
          part.items.fill(-1);
        }
        part.items[row - row0] = next[use]++;
      }
    }
    for (const auto& [key, part] : tile) list.push_back(part);
    first.push_back(static_cast<int64_t>(list.size()));
  }
  return list;
}

}  // namespace rankone::cuda
