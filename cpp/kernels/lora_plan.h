// Which rows of a tile share an adapter: the products in front of and behind it are done once for all of them.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/lora.h"

namespace rankone {

constexpr int kMostTileRows = 12;

// Rows of one tile with one adapter. No row is in it twice.
struct RankGroup {
  int32_t slot;   // the adapter
  int32_t first;  // of its rows' w among those of the tile
  int32_t count;
  uint8_t row[kMostTileRows];    // in the tile, ascending
  int32_t place[kMostTileRows];  // of the adapter among the row's own

  bool isRun() const { return row[count - 1] - row[0] == count - 1; }
};

// The groups of tile i of rows are [begin[i], begin[i + 1]), by ascending slot: the order in which a row's adapters are
// added.
struct RankPlan {
  std::vector<RankGroup> groups;
  std::vector<int64_t> begin;
};

RankPlan planRanks(const LoraArgs& args, int tileRows);

}  // namespace rankone
