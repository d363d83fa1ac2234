// The rows of a batch by the adapters that they use, as the kernels of the fused LoRA product's backward read them. An
// item is a row with one of its adapters; items lie by adapters, those of one adapter by ascending rows.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "backend.h"

namespace rankone::cuda {

constexpr int kItemTile = 64;           // items whose ranks are made together
constexpr int kRowTile = 128;           // rows of dx that are
constexpr int64_t kDepthOfSums = 1024;  // outputs or inputs in one chain of a rank's sum
constexpr int64_t kItemsOfSums = 512;   // items in one chain of a sum over rows

// An adapter with items.
struct LoraUse {
  RankoneAdapter adapter;
  int64_t first, count;  // items
  // Where its items' ranks and middle ranks begin, and how many floats an item has there.
  int64_t t, w, ldT, ldW;
};

struct LoraItem {
  int64_t row, slot;  // slot: row perRow + place
  int32_t use, adapter;
};

// Items of one adapter that are multiplied together.
struct LoraItemTile {
  int32_t use, count;
  int64_t first;  // counted from the adapter's first
};

// What one adapter adds to a tile of dx.
struct LoraTilePart {
  int32_t use;
  std::array<int32_t, kRowTile> items;  // of the adapter's, by rows of the tile; -1: the row has none
};

struct LoraItems {
  explicit LoraItems(const RankoneLora& problem);

  std::vector<LoraItem> items;
  std::vector<LoraUse> uses;
  std::vector<int32_t> useOf;  // by adapter, -1: none
  int64_t t = 0, w = 0;        // floats of all items' ranks, middle ranks
  int64_t mostRank = 0, mostMidRank = 0;

  std::vector<LoraItemTile> tiles(int64_t items, bool (*wanted)(const LoraUse&)) const;
  // Parts of tile i of dx are [first[i], first[i + 1]), by ascending adapters.
  std::vector<LoraTilePart> parts(const RankoneLora& problem, std::vector<int64_t>& first) const;
};

}  // namespace rankone::cuda
