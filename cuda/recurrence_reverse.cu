#include <cstddef>

#include "recurrence_reverse.cuh"
#include "recurrence_scan.h"

namespace rankone::cuda {
namespace {

template <int KD, bool kDelta, bool kChannel>
void launchScan(Stream& stream, ReverseArgs args, int64_t N) {
  const int bytes = ReverseStage<KD, kDelta, kChannel>::bytes(args.layout);
  const int halves = static_cast<int>(offsetof(ReverseShared, stages));
  args.stages = static_cast<size_t>(halves + 2 * bytes) <= sharedBytesOf(stream.info()) ? 2 : 1;
  const dim3 grid(static_cast<unsigned>(N) * columnBlocks(args.V), static_cast<unsigned>(args.HV));
  stream.launch("recurrenceReverse", recurrenceReverseScan<KD, kDelta, kChannel>, grid, kReverseThreads,
                static_cast<size_t>(halves + args.stages * bytes), args);
}

template <int KD, bool kDelta>
void launchGate(Stream& stream, const ReverseArgs& args, int64_t N, bool channel) {
  if (channel) {
    launchScan<KD, kDelta, true>(stream, args, N);
  } else {
    launchScan<KD, kDelta, false>(stream, args, N);
  }
}

template <int KD>
void launchUpdate(Stream& stream, const ReverseArgs& args, const RankoneRecurrence& p) {
  const bool channel = p.gate == RANKONE_GATE_CHANNEL;
  if (p.update == RANKONE_DELTA) {
    launchGate<KD, true>(stream, args, p.N, channel);
  } else {
    launchGate<KD, false>(stream, args, p.N, channel);
  }
}

}  // namespace

void recurrenceReverseChunks(Stream& stream, const RankoneRecurrenceBackward& args, const Sequences& sequences,
                             const Prepared& prepared, const OutputGradient& dO, const Trace& reverse) {
  const RankoneRecurrence& p = args.problem;
  const PrepLayout layout = prepLayout(p, prepared);
  const int64_t chunks = sequences.chunkCount, most = chunksAtOnce(layout, p.HV);
  Scratch<float> between;  // D from one launch to the next
  float* carried = args.dInitialState;
  if (!carried && chunks > most) {
    between = Scratch<float>(stream, static_cast<size_t>(p.N * p.HV * p.K * p.V));
    carried = between.data();
  }
  ReverseArgs a = {};
  a.layout = layout;
  a.q = static_cast<const uint16_t*>(prepared.q), a.k = static_cast<const uint16_t*>(prepared.k);
  a.dO = static_cast<const uint16_t*>(dO.data);
  a.chunks = sequences.chunks.data(), a.firstChunks = sequences.firstChunks.data();
  a.H = static_cast<int32_t>(p.H);
  a.HV = static_cast<int32_t>(p.HV);
  a.K = static_cast<int32_t>(p.K);
  a.V = static_cast<int32_t>(p.V);
  a.Kp = static_cast<int32_t>(prepared.Kp);
  a.Vp = static_cast<int32_t>(prepared.Vp);
  a.dFinalState = args.dFinalState, a.carried = carried;
  a.states = static_cast<uint16_t*>(reverse.states), a.rows = static_cast<uint16_t*>(reverse.rows);
  a.opens = true;
  int64_t end = chunks;
  do {  // also without chunks: dInitialState is dFinalState then
    a.count = end < most ? end : most;
    a.first = end -= a.count;
    ChunkPrep prep{layout, 0, 0, {}};
    if (a.count > 0) prep = recurrencePrep(stream, p, sequences, prepared, a.first, a.count);
    a.prep = prep.memory.data();
    switch (layout.KD) {
      case 64: launchUpdate<64>(stream, a, p); break;
      case 128: launchUpdate<128>(stream, a, p); break;
      default: launchUpdate<256>(stream, a, p); break;
    }
    a.opens = false;
  } while (end > 0);
}

}  // namespace rankone::cuda
