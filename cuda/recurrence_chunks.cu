// recurrenceChunks: sequences cut into what is prepared and scanned at once.
#include <algorithm>

#include "recurrence_scan.h"

namespace rankone::cuda {
namespace {

// The parts of sequences in chunks [first, end), of which the one that came from before is in slot `odd` of the
// carried states and the one that goes on in the other.
std::vector<Segment> segmentsOf(const Sequences& sequences, int64_t first, int64_t end, int odd) {
  std::vector<Segment> segments;
  const int64_t count = static_cast<int64_t>(sequences.hostFirstChunks.size()) - 1;
  for (int64_t s = 0; s < count; ++s) {
    const int64_t begins = sequences.hostFirstChunks[s], ends = sequences.hostFirstChunks[s + 1];
    const bool empty = begins == ends;  // of those the first call hands the states on
    const int64_t low = empty ? begins : std::max(begins, first), high = empty ? ends : std::min(ends, end);
    if (empty ? first > 0 : low >= high) continue;
    Segment segment{};
    segment.chunk = low;
    segment.slot = low - first;
    segment.chunks = static_cast<int32_t>(high - low);
    segment.sequence = static_cast<int32_t>(s);
    segment.from = begins < low ? odd : Segment::ARGUMENT;
    segment.to = high < ends ? 1 - odd : Segment::ARGUMENT;
    segments.push_back(segment);
  }
  return segments;
}

}  // namespace

size_t sharedBytesOf(const RankoneDeviceInfo& info) {
  constexpr size_t kKilobyte = 1024;
  if (info.major == 9 || info.major == 10) return 227 * kKilobyte;
  if (info.major == 8 && (info.minor == 0 || info.minor == 7)) return 163 * kKilobyte;
  return 99 * kKilobyte;
}

void recurrenceChunks(Stream& stream, const RankoneRecurrenceForward& args, const Sequences& sequences,
                      const Prepared& prepared, const Trace* trace) {
  const RankoneRecurrence& p = args.problem;
  const int64_t stateSize = p.HV * p.K * p.V;
  ScanArgs scan{};
  scan.layout = prepLayout(p, prepared);
  scan.q = static_cast<const uint16_t*>(prepared.q);
  scan.k = static_cast<const uint16_t*>(prepared.k);
  scan.v = static_cast<const uint16_t*>(prepared.v);
  scan.chunks = sequences.chunks.data();
  scan.initialState = p.initialState;
  scan.finalState = args.finalState;
  scan.stateRows = p.stateRows;
  scan.o = args.o;
  scan.oDType = p.q.dtype;
  scan.traceStates = trace ? static_cast<uint16_t*>(trace->states) : nullptr;
  scan.traceRows = trace ? static_cast<uint16_t*>(trace->rows) : nullptr;
  scan.H = static_cast<int32_t>(p.H);
  scan.HV = static_cast<int32_t>(p.HV);
  scan.K = static_cast<int32_t>(p.K);
  scan.Kp = static_cast<int32_t>(prepared.Kp);
  scan.V = static_cast<int32_t>(p.V);
  scan.Vp = static_cast<int32_t>(prepared.Vp);

  const int64_t atOnce = chunksAtOnce(scan.layout, p.HV);
  Scratch<float> carry;
  if (atOnce < sequences.chunkCount) carry = Scratch<float>(stream, static_cast<size_t>(2 * stateSize));
  scan.carry = carry.data();
  int odd = 0;
  for (int64_t first = 0; first == 0 || first < sequences.chunkCount; first += atOnce) {
    const int64_t count = std::min(atOnce, sequences.chunkCount - first);
    const std::vector<Segment> list = segmentsOf(sequences, first, first + count, odd);
    const Scratch<Segment> segments(stream, list);
    ChunkPrep prep{};
    if (count > 0) prep = recurrencePrep(stream, p, sequences, prepared, first, count);
    scan.workspace = prep.memory.data();
    scan.segments = segments.data();
    const auto run = p.gate == RANKONE_GATE_CHANNEL ? scanChannelChunks : scanChunks;
    run(stream, scan, p.update == RANKONE_DELTA, static_cast<int64_t>(list.size()));
    odd = 1 - odd;
  }
}

}  // namespace rankone::cuda
