// How attention is cut into tasks: the keys by the shape of each sequence alone, so that neither threads nor the rest
// of the batch can change a bit. How many heads a task takes changes none.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/attention.h"

namespace rankone {

// Keys that are worked on at a time begin at a multiple of this, whatever the mask: a row's bits do not depend on which
// others there are. A multiple of every tile's height.
constexpr int64_t kAttentionKeys = 96;
// Rows of queries up to which keys are read as they are, once, for all of them; there the time is that of the reading.
constexpr int64_t kAttentionFewRows = 16;

// Positions [begin, end).
struct KeyRange {
  int64_t begin, end;
  int64_t count() const { return end > begin ? end - begin : 0; }
};

// What queries at positions from `low` to `high` see, in order and apart: [0] of what is always seen, [1] of the
// window.
struct VisibleKeys {
  KeyRange range[2];
};
VisibleKeys visibleKeys(const AttentionMask& mask, int64_t low, int64_t high, int64_t keys);

// Whether every one of these queries sees all of the keys, or may see some of them.
bool seesAll(const AttentionMask& mask, int64_t low, int64_t high, KeyRange keys);
bool seesAny(const AttentionMask& mask, int64_t low, int64_t high, KeyRange keys);

// Rows of a sequence's queries that share a head of keys, row r being token r / G and head r % G of its group of G; and
// the keys that a task takes of what they see. `heads` of keys that follow each other have such rows each.
struct AttentionItem {
  const AttentionSequence* sequence;
  int64_t head, heads, row, rows;
  KeyRange keys;
  int64_t partial;  // floats into the memory of partial results; -1: the item is all there is
  int64_t allRows() const { return heads * rows; }
};

// Rows whose keys were split: `parts` items from `item` on.
struct AttentionSplit {
  int64_t item, parts;
};

struct AttentionPlan {
  std::vector<AttentionItem> items;
  std::vector<AttentionSplit> splits;
  int64_t partialFloats = 0;
  int64_t cost = 0;  // of an item on average, in flops
};

// `width`: floats of a row of partial sums.
AttentionPlan planAttention(const AttentionArgs& args, int64_t width);

// Keys [begin, end) of a head, whose gradients are a task.
struct AttentionBackwardItem {
  const AttentionSequence* sequence;
  int64_t head;
  KeyRange keys;
  int64_t queries;  // floats into the memory of dq: the part of these keys, [T,H,K] of the sequence
};

struct AttentionBackwardPlan {
  std::vector<AttentionBackwardItem> items;
  std::vector<int64_t> parts;    // of every sequence: how many dq is the sum of
  std::vector<int64_t> queries;  // of every sequence: where the first of them begins
  int64_t queryFloats = 0;
  int64_t cost = 0;
};

AttentionBackwardPlan planAttentionBackward(const AttentionArgs& args);

}  // namespace rankone
