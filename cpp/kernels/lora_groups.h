// The rows of a block by the adapters that they use, and what is to be done for each adapter. See lora_backward.inl.
#pragma once
#include <vector>

#include "kernels/lora.h"

namespace rankone {

// The rows that have one adapter in one slot. Its items lie side by side, in ascending order of the rows.
struct LoraGroup {
  int32_t adapter, slot;
  int64_t first, count;  // items
  int64_t ldT, ldW;      // floats of an item's ranks and middle ranks
  // Where its parts begin: items' ranks and middle ranks, and both with items as steps.
  int64_t t, w, packedT, packedW;
};

// A share of a group.
struct LoraPiece {
  int32_t group;
  int64_t first, count;
};

struct LoraUse {
  int32_t adapter;
  int64_t first, count;  // groups, in `byAdapter`
};

enum class LoraSum : uint8_t { A, B, Mid, Ranks, Outputs };

// A share of an adapter's gradients: strips [first, last) of the columns of what is summed.
struct LoraSumJob {
  LoraSum kind;
  int32_t use;
  int64_t first, last;
};

struct LoraGroups {
  std::vector<LoraGroup> groups;  // by slot, then adapter: the order in which a row gets what its adapters add
  std::vector<int32_t> rows;      // of the items, counted from the block's first
  std::vector<int32_t> byAdapter;
  std::vector<LoraUse> uses;

  LoraGroups(const LoraArgs& args, int64_t row0, int64_t count);

  std::vector<LoraPiece> pieces(int64_t items) const;
  std::vector<LoraSumJob> sums(const LoraArgs& args, const LoraGradients& gradients, int64_t columns) const;
};

}  // namespace rankone
