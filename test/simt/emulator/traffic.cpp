#include "traffic.h"

#include <algorithm>
#include <cstdio>

#include "machine.h"
#include "memory.h"

namespace simt::emulator {

namespace {

constexpr size_t MOST_OPEN = 1 << 16;  // accesses of a warp from one place whose lanes are not all there yet

// By place, since the last lines().
struct Total {
  bool shared, write;
  long executions, transactions, ideal;
};
std::vector<Total> totals;

int wordsOfBusiestBank(uint32_t* words, int n) {
  // Most accesses have one word a bank.
  uint32_t only[32];
  uint32_t taken = 0;
  int i = 0;
  for (; i < n; ++i) {
    const uint32_t bank = words[i] % 32;
    if (taken >> bank & 1 && only[bank] != words[i]) break;
    taken |= 1u << bank;
    only[bank] = words[i];
  }
  if (i == n) return 1;
  std::sort(words, words + n);
  n = static_cast<int>(std::unique(words, words + n) - words);
  int banks[32] = {}, most = 0;
  for (i = 0; i < n; ++i) most = std::max(most, ++banks[words[i] % 32]);
  return most;
}

// Wavefronts of shared memory: 32 banks of 4 bytes; 8- and 16-byte accesses go by halves and quarters of the warp.
void countWavefronts(const WarpAccess& access, uint32_t bytes, Total& total) {
  const int together = bytes >= 16 ? 8 : bytes == 8 ? 16 : 32;
  for (int first = 0; first < WARP; first += together) {
    uint32_t words[128];
    int n = 0;
    for (int lane = first; lane < first + together; ++lane) {
      if (!(access.lanes >> lane & 1)) continue;
      for (uint32_t b = 0; b < std::max(bytes, 4u); b += 4) words[n++] = (access.offsets[lane] + b) / 4;
    }
    if (n == 0) continue;
    total.transactions += wordsOfBusiestBank(words, n);
    total.ideal += 1;
  }
}

void countSectors(const WarpAccess& access, uint32_t bytes, Total& total) {
  uint32_t sectors[64];
  int n = 0;
  long all = 0;
  for (int lane = 0; lane < WARP; ++lane) {
    if (!(access.lanes >> lane & 1)) continue;
    all += bytes;
    sectors[n++] = access.offsets[lane] / 32;
    sectors[n++] = (access.offsets[lane] + bytes - 1) / 32;
  }
  std::sort(sectors, sectors + n);
  total.transactions += std::unique(sectors, sectors + n) - sectors;
  total.ideal += (all + 31) / 32;
}

void fold(const WarpAccess& access, const TrafficOfPlace& at, uint32_t place, Statistics& statistics) {
  Total now = {};
  if (at.shared) {
    countWavefronts(access, at.bytes, now);
    ++statistics.sharedAccesses;
    statistics.wavefronts += now.transactions;
    statistics.idealWavefronts += now.ideal;
  } else {
    countSectors(access, at.bytes, now);
    ++statistics.globalAccesses;
    (at.write ? statistics.storeSectors : statistics.loadSectors) += now.transactions;
    statistics.idealSectors += now.ideal;
  }
  if (totals.size() <= place) totals.resize(place + 1);
  Total& total = totals[place];
  total.shared = at.shared;
  total.write = at.write;
  ++total.executions;
  total.transactions += now.transactions;
  total.ideal += now.ideal;
}

}  // namespace

void recordAccess(Thread& thread, const void* address, size_t bytes, bool write, uint32_t place) {
  TrafficOfWarp& traffic = thread.warp->traffic;
  if (traffic.size() <= place) traffic.resize(place + 1);
  if (!traffic[place]) traffic[place] = std::make_unique<TrafficOfPlace>();
  TrafficOfPlace& at = *traffic[place];
  at.bytes = static_cast<uint32_t>(std::min<size_t>(bytes, 16));
  at.write = write;
  at.shared = isShared(address);
  const uint64_t number = at.counts[thread.lane]++;
  if (number < at.first) return;  // folded when too many were open
  while (number - at.first >= at.accesses.size()) at.accesses.emplace_back();
  WarpAccess& access = at.accesses[number - at.first];
  access.offsets[thread.lane] = static_cast<uint32_t>(offsetOf(address));
  access.lanes |= 1u << thread.lane;
  const bool whole = access.lanes == thread.warp->exists && number == at.first;
  if (whole || at.accesses.size() > MOST_OPEN) {
    fold(at.accesses.front(), at, place, thread.block->worker->statistics);
    at.accesses.pop_front();
    ++at.first;
  }
}

void foldTraffic(Warp& warp, Statistics& statistics) {
  for (size_t place = 0; place < warp.traffic.size(); ++place) {
    if (!warp.traffic[place]) continue;
    for (const WarpAccess& access : warp.traffic[place]->accesses) {
      fold(access, *warp.traffic[place], static_cast<uint32_t>(place), statistics);
    }
  }
  warp.traffic.clear();
}

std::string lines() {
  std::vector<uint32_t> places;
  for (uint32_t place = 0; place < totals.size(); ++place) {
    if (totals[place].executions) places.push_back(place);
  }
  const auto excess = [](uint32_t p) { return totals[p].transactions - totals[p].ideal; };
  std::sort(places.begin(), places.end(), [&](uint32_t a, uint32_t b) {
    return excess(a) != excess(b) ? excess(a) > excess(b) : totals[a].transactions > totals[b].transactions;
  });
  std::vector<std::string> names;
  std::vector<std::string*> pointers;
  for (const uint32_t place : places) names.push_back(mark(place));
  for (std::string& name : names) pointers.push_back(&name);
  namePlaces(pointers);
  std::string text;
  for (size_t i = 0; i < places.size(); ++i) {
    const Total& total = totals[places[i]];
    char line[160];
    std::snprintf(line, sizeof line, "%s %s %8ld accesses of a warp, %8ld %s, %5.2f of the ideal  ",
                  total.shared ? "shared" : "global", total.write ? "store" : "load ", total.executions,
                  total.transactions, total.shared ? "wavefronts" : "sectors   ",
                  static_cast<double>(total.transactions) / static_cast<double>(total.ideal));
    text += line + names[i] + "\n";
  }
  totals.clear();
  return text;
}

}  // namespace simt::emulator
