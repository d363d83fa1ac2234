// How linear attention without order is cut into tasks: by the shape of each sequence alone, so that neither threads
// nor the rest of the batch can change a bit of what belongs to a sequence.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/bidirectional_attention.h"

namespace rankone {

// Tokens [begin, end) of a sequence, and one head of its queries or of its keys. Sums over them are a slot of their
// own, to be added up with the others of their place: the sequence's head of keys.
struct BidirectionalItem {
  const BidirectionalSequence* sequence;
  int64_t head, begin, end, slot, place;
};

// Items that are worked on one after the other, all of one head, and which of that head's tasks this is.
struct BidirectionalTask {
  int64_t item, count, head, part;
};

struct BidirectionalSide {
  std::vector<BidirectionalItem> items;
  std::vector<BidirectionalTask> tasks;
  std::vector<int64_t> first;  // [places + 1]: the slots of a place
  int64_t slots() const { return first.back(); }
};

// Sequences whose sums are in memory at the same time.
struct BidirectionalWave {
  std::vector<const BidirectionalSequence*> sequences;
  int64_t places = 0;  // sequences times heads of keys
  BidirectionalSide keys, queries;
};

// Tasks that a head may have at most in any wave, where every one of them sums the gradient of the head's weight.
inline int64_t bidirectionalParts(int64_t heads) { return heads >= 64 ? 1 : 64 / heads; }

// The waves in order. `learning`: tasks of a head are no more than bidirectionalParts().
std::vector<BidirectionalWave> planBidirectional(const BidirectionalArgs& args, bool learning);

}  // namespace rankone
