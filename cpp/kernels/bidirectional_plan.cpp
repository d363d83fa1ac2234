#include "kernels/bidirectional_plan.h"

#include <algorithm>

namespace rankone {
namespace {

// Of sums that are in memory at the same time, in floats.
constexpr int64_t kWaveFloats = int64_t{1} << 24;
constexpr double kTaskFlops = 4e5;

// Sums of a part of a sequence take no more memory than half of its values.
int64_t partTokens(const BidirectionalArgs& p) { return std::max<int64_t>(512, (2 * p.form.width() + 63) / 64 * 64); }

int64_t partsOf(int64_t tokens, int64_t perPart) { return std::max<int64_t>(1, (tokens + perPart - 1) / perPart); }

void addItems(BidirectionalSide& side, const BidirectionalWave& wave, int64_t heads, int64_t group, bool queries,
              int64_t perPart) {
  const int64_t places = wave.places / static_cast<int64_t>(wave.sequences.size());
  side.first.assign(1, 0);
  for (const BidirectionalSequence* s : wave.sequences)
    for (int64_t g = 0; g < places; ++g)
      side.first.push_back(side.first.back() + group * partsOf(queries ? s->T : s->S, perPart));
  for (int64_t h = 0; h < heads; ++h)
    for (size_t i = 0; i < wave.sequences.size(); ++i) {
      const BidirectionalSequence* s = wave.sequences[i];
      const int64_t tokens = queries ? s->T : s->S, parts = partsOf(tokens, perPart);
      const int64_t place = static_cast<int64_t>(i) * places + h / group;
      for (int64_t part = 0; part < parts; ++part)
        side.items.push_back({s, h, part * perPart, std::min(tokens, (part + 1) * perPart),
                              side.first[place] + h % group * parts + part, place});
    }
}

void addTasks(BidirectionalSide& side, int64_t heads, const BidirectionalArgs& p, bool learning) {
  const int64_t items = static_cast<int64_t>(side.items.size()), ofHead = items / heads;
  double tokens = 0;
  for (const BidirectionalItem& item : side.items) tokens += static_cast<double>(item.end - item.begin);
  const double each = 4.0 * static_cast<double>(p.form.width()) * static_cast<double>(p.V) * tokens / items;
  int64_t count = std::clamp<int64_t>(static_cast<int64_t>(kTaskFlops / std::max(1.0, each)), 1, ofHead);
  if (learning) {
    const int64_t most = bidirectionalParts(heads);
    count = std::max(count, (ofHead + most - 1) / most);
  }
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0, part = 0; i < ofHead; i += count, ++part)
      side.tasks.push_back({h * ofHead + i, std::min(count, ofHead - i), h, part});
}

}  // namespace

std::vector<BidirectionalWave> planBidirectional(const BidirectionalArgs& p, bool learning) {
  const int64_t perPart = partTokens(p), group = p.H / p.HKV;
  std::vector<BidirectionalWave> waves;
  int64_t floats = kWaveFloats;
  for (const BidirectionalSequence& s : *p.sequences) {
    const int64_t slots = partsOf(s.S, perPart) * p.HKV + partsOf(s.T, perPart) * p.H;
    const int64_t own = slots * p.form.width() * (p.V + 32);
    if (floats + own > kWaveFloats) {
      waves.emplace_back();
      floats = 0;
    }
    floats += own;
    waves.back().sequences.push_back(&s);
  }
  for (BidirectionalWave& wave : waves) {
    wave.places = static_cast<int64_t>(wave.sequences.size()) * p.HKV;
    addItems(wave.keys, wave, p.HKV, 1, false, perPart);
    addItems(wave.queries, wave, p.H, group, true, perPart);
    addTasks(wave.keys, p.HKV, p, learning);
    addTasks(wave.queries, p.H, p, learning);
  }
  return waves;
}

}  // namespace rankone
