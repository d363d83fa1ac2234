// Work of a stream that was recorded, with the memory that it keeps for itself.
#pragma once
#include <vector>

#include "allocator.h"
#include "stream.h"

struct RankoneGraph {
  explicit RankoneGraph(rankone::cuda::Stream& stream) : stream(stream) {}
  ~RankoneGraph();
  RankoneGraph(const RankoneGraph&) = delete;
  RankoneGraph& operator=(const RankoneGraph&) = delete;

  rankone::cuda::Stream& stream;
  rankone::cuda::runtime::Graph native = nullptr;
  std::vector<rankone::cuda::Allocator::Block> blocks;
  std::vector<void*> pinned;  // host data of its uploads
};
