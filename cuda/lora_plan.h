// How rows share the work of the fused LoRA product: tiles of rows in the order of their adapters, and what each needs.
#pragma once
#include <cstdint>
#include <vector>

#include "backend.h"

namespace rankone::cuda {

// Rows order[first] to order[first + rows - 1], and their uses of adapters, by ascending adapter.
struct LoraTile {
  uint32_t first;
  int32_t rows;
  int32_t firstUse, uses;
  int32_t strips;
  int32_t firstGroup, groups;
  int32_t baseScales;  // of its uses, that have one
};

// An adapter of some of a tile's rows. pairs[use * tileRows + i]: the place of row i in slots, or kNoPair. A row that
// has an adapter twice is in two uses.
struct LoraTileUse {
  int32_t adapter;
};
constexpr uint32_t kNoPair = ~0u;

// Ranks of a tile's uses that are computed together, with factors A of one dtype.
struct LoraStrip {
  int32_t tile;
  int32_t first, count;  // columns
  int32_t dtype;
};
struct LoraColumn {
  int32_t use, rank;
};

// Up to 16 ranks of a use's B, in device memory.
struct LoraGroup {
  const void* b;         // of these ranks in B's row 0; null: index
  const int32_t* index;  // of these ranks
  int64_t stride;        // elements between rows of B
  int32_t dtype;
  int32_t use, adapter;
  int32_t first, count;  // ranks
  uint32_t blocks;       // bit i: whether one of the tile's rows from 16 i on has it
  int32_t last;          // of the use
};

struct LoraPlan {
  std::vector<uint32_t> order;
  std::vector<LoraTile> tiles;
  std::vector<LoraTileUse> uses;
  std::vector<uint32_t> pairs;
  std::vector<LoraStrip> strips;
  std::vector<LoraColumn> columns;
  std::vector<LoraGroup> groups;

  // inOrder: rows of one tile stay as they come.
  LoraPlan(const RankoneLora& problem, int tileRows, int stripColumns, bool inOrder);

  bool sorted() const;  // whether rows stay as they come

 private:
  void addStrips(const RankoneLora& problem, LoraTile& tile, int stripColumns);
  void addGroups(const RankoneLora& problem, LoraTile& tile, int tileRows);
};

}  // namespace rankone::cuda
