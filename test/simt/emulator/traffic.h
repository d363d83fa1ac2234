// Bank conflicts and sectors: the lanes' accesses from one place, put together in the order in which each lane made
// them.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "simt/emulator.cuh"

namespace simt::emulator {

struct Thread;
struct Warp;

struct WarpAccess {
  uint32_t offsets[32];
  uint32_t lanes = 0;
};

struct TrafficOfPlace {
  uint64_t first = 0;  // number of accesses.front()
  uint64_t counts[32] = {};
  uint32_t bytes = 0;
  bool write = false, shared = false;
  std::deque<WarpAccess> accesses;
};

using TrafficOfWarp = std::vector<std::unique_ptr<TrafficOfPlace>>;

void recordAccess(Thread&, const void* address, size_t bytes, bool write, uint32_t place);
// What is left of a warp's accesses, when its block ends.
void foldTraffic(Warp&, Statistics&);

}  // namespace simt::emulator
