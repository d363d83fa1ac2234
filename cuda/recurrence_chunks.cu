// recurrenceChunks: what is prepared and scanned, and in which order.
#include <algorithm>

#include "recurrence_scan_hopper.h"
#include "recurrence_segments.h"

namespace rankone::cuda {

size_t sharedBytesOf(const RankoneDeviceInfo& info) {
  constexpr size_t kKilobyte = 1024;
  if (info.major == 9 || info.major == 10) return 227 * kKilobyte;
  if (info.major == 8 && (info.minor == 0 || info.minor == 7)) return 163 * kKilobyte;
  return 99 * kKilobyte;
}

void recurrenceChunks(Stream& stream, const RankoneRecurrenceForward& args, const Sequences& sequences,
                      const Prepared& prepared, const Trace* trace) {
  const RankoneRecurrence& p = args.problem;
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

  const int64_t turn = chunksAtOnce(scan.layout, p.HV);
  const std::vector<Piece> pieces = piecesOf(sequences, p, turn);
  int64_t slots = 0;
  bool cut = false;
  for (const Piece& piece : pieces) {
    slots = std::max<int64_t>(slots, piece.slot + 1);
    cut |= piece.count > 1;
  }
  const Scratch<float> carry(stream, static_cast<size_t>(slots * p.HV * p.K * p.V));
  scan.carry = carry.data();

  ChunkPrep prep{};
  const auto overTurns = [&](auto&& scans) {
    for (int64_t first = 0; first == 0 || first < sequences.chunkCount; first += turn) {
      const int64_t count = std::min(turn, sequences.chunkCount - first);
      // In one turn all passes share what was prepared.
      if (count > 0 && (prep.count == 0 || prep.first != first))
        prep = recurrencePrep(stream, p, sequences, prepared, first, count);
      scans(first, first + count);
    }
  };
  const auto run = [&](ScanArgs args, Pass pass, int64_t first, int64_t end) {
    const std::vector<Segment> parts = partsOf(pieces, pass, first, end);
    const Scratch<Segment> segments(stream, parts);
    args.workspace = prep.memory.data();
    args.segments = segments.data();
    if (takesHopperScan(stream, p, args))
      return scanHopperChunks(stream, p, args, prep.count, static_cast<int64_t>(parts.size()));
    const auto launch = p.gate == RANKONE_GATE_CHANNEL ? scanChannelChunks : scanChunks;
    launch(stream, args, p.update == RANKONE_DELTA, static_cast<int64_t>(parts.size()));
  };
  if (cut) {
    const Scratch<float> M(stream, static_cast<size_t>(slots * p.HV * p.K * p.K));
    ScanArgs ofN = scan;
    ofN.o = nullptr;
    ofN.traceStates = ofN.traceRows = nullptr;
    ScanArgs ofM = ofN;
    ofM.v = nullptr;
    ofM.V = ofM.K;
    ofM.Vp = 0;
    ofM.carry = M.data();
    overTurns([&](int64_t first, int64_t end) {
      run(ofN, Pass::N, first, end);
      run(ofM, Pass::M, first, end);
    });
    carryStates(stream, pieces, p, carry.data(), M.data());
  }
  overTurns([&](int64_t first, int64_t end) { run(scan, Pass::FINAL, first, end); });
  if (cut && scan.finalState) deliverStates(stream, pieces, scan);
}

}  // namespace rankone::cuda
