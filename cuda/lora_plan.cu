#include <algorithm>
#include <numeric>

#include "lora_plan.h"

namespace rankone::cuda {

namespace {

// Rows by their first adapter, those without one first; of equal ones the first first.
std::vector<uint32_t> orderOf(const RankoneLora& p, bool asTheyCome) {
  std::vector<uint32_t> order(static_cast<size_t>(p.rows));
  std::iota(order.begin(), order.end(), 0);
  if (!p.slots || asTheyCome) return order;
  const auto firstOf = [&](int64_t row) {
    int32_t first = -1;
    for (int64_t j = 0; j < p.perRow; ++j) {
      const int32_t slot = p.slots[row * p.perRow + j];
      if (slot >= 0 && (first < 0 || slot < first)) first = slot;
    }
    return first;
  };
  std::vector<int32_t> keys(order.size());
  std::vector<uint32_t> begin(static_cast<size_t>(p.adapterCount) + 2);
  for (int64_t m = 0; m < p.rows; ++m) {
    keys[m] = firstOf(m);
    ++begin[keys[m] + 2];
  }
  if (std::is_sorted(keys.begin(), keys.end())) return order;
  for (size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
  for (int64_t m = 0; m < p.rows; ++m) order[begin[keys[m] + 1]++] = static_cast<uint32_t>(m);
  return order;
}

struct Entry {
  int32_t adapter, time;  // the how manieth of the row with this adapter
  int32_t row;            // of the tile
  uint32_t pair;

  bool sameUse(const Entry& e) const { return adapter == e.adapter && time == e.time; }
  bool operator<(const Entry& e) const {
    return adapter != e.adapter ? adapter < e.adapter : time != e.time ? time < e.time : row < e.row;
  }
};

}  // namespace

LoraPlan::LoraPlan(const RankoneLora& p, int tileRows, int stripColumns, bool inOrder)
    : order(orderOf(p, inOrder && p.rows <= tileRows)) {
  std::vector<Entry> entries;
  for (int64_t first = 0; first < p.rows; first += tileRows) {
    LoraTile tile = {};
    tile.first = static_cast<uint32_t>(first);
    tile.rows = static_cast<int32_t>(std::min<int64_t>(tileRows, p.rows - first));
    tile.firstUse = static_cast<int32_t>(uses.size());
    entries.clear();
    for (int32_t i = 0; p.slots && i < tile.rows; ++i) {
      const int64_t row = order[first + i];
      const int32_t* slots = p.slots + row * p.perRow;
      for (int64_t j = 0; j < p.perRow; ++j)
        if (slots[j] >= 0)
          entries.push_back({slots[j], static_cast<int32_t>(std::count(slots, slots + j, slots[j])), i,
                             static_cast<uint32_t>(row * p.perRow + j)});
    }
    if (!std::is_sorted(entries.begin(), entries.end())) std::sort(entries.begin(), entries.end());
    for (size_t k = 0; k < entries.size(); ++k) {
      if (k == 0 || !entries[k].sameUse(entries[k - 1])) {
        uses.push_back({entries[k].adapter});
        pairs.resize(uses.size() * tileRows, kNoPair);
      }
      pairs[(uses.size() - 1) * tileRows + entries[k].row] = entries[k].pair;
    }
    tile.uses = static_cast<int32_t>(uses.size()) - tile.firstUse;
    for (int32_t use = tile.firstUse; use < tile.firstUse + tile.uses; ++use)
      tile.baseScales += p.adapters[uses[use].adapter].baseScale != nullptr;

    addStrips(p, tile, stripColumns);
    addGroups(p, tile, tileRows);
    tiles.push_back(tile);
  }
}

bool LoraPlan::sorted() const { return std::is_sorted(order.begin(), order.end()); }

void LoraPlan::addStrips(const RankoneLora& p, LoraTile& tile, int stripColumns) {
  const int32_t index = static_cast<int32_t>(tiles.size());
  for (int32_t dtype : {RANKONE_F32, RANKONE_BF16, RANKONE_F16}) {
    bool open = false;
    for (int32_t use = tile.firstUse; use < tile.firstUse + tile.uses; ++use) {
      const RankoneAdapter& a = p.adapters[uses[use].adapter];
      if (a.aIndex || a.a.dtype != dtype) continue;
      for (int32_t rank = 0; rank < a.rank; ++rank) {
        if (!open || strips.back().count == stripColumns) {
          strips.push_back({index, static_cast<int32_t>(columns.size()), 0, dtype});
          ++tile.strips;
          open = true;
        }
        columns.push_back({use, rank});
        ++strips.back().count;
      }
    }
  }
}

void LoraPlan::addGroups(const RankoneLora& p, LoraTile& tile, int tileRows) {
  tile.firstGroup = static_cast<int32_t>(groups.size());
  for (int32_t use = tile.firstUse; use < tile.firstUse + tile.uses; ++use) {
    const RankoneAdapter& a = p.adapters[uses[use].adapter];
    LoraGroup g = {};
    g.stride = a.bStride;
    g.dtype = a.bIndex ? RANKONE_F32 : a.b.dtype;
    g.use = use;
    g.adapter = uses[use].adapter;
    for (int32_t i = 0; i < tile.rows; ++i)
      if (pairs[static_cast<size_t>(use) * tileRows + i] != kNoPair) g.blocks |= 1u << i / 16;
    for (int64_t rank = 0; rank < a.midRank; rank += 16) {
      g.first = static_cast<int32_t>(rank);
      g.count = static_cast<int32_t>(std::min<int64_t>(16, a.midRank - rank));
      g.index = a.bIndex ? a.bIndex + rank : nullptr;
      g.b = a.bIndex ? nullptr : static_cast<const uint8_t*>(a.b.data) + rank * (a.b.dtype == RANKONE_F32 ? 4 : 2);
      g.last = rank + 16 >= a.midRank;
      groups.push_back(g);
    }
  }
  tile.groups = static_cast<int32_t>(groups.size()) - tile.firstGroup;
}

}  // namespace rankone::cuda
