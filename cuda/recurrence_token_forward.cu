#include "recurrence_token.h"
#include "recurrence_token_forward.cuh"

namespace rankone::cuda {

TokenArgs tokenArgs(const RankoneRecurrence& p, const TokenRun& run) {
  TokenArgs a{};
  a.T = p.T;
  a.H = p.H;
  a.HV = p.HV;
  a.K = static_cast<int32_t>(p.K);
  a.V = static_cast<int32_t>(p.V);
  a.n = static_cast<int32_t>(p.n);
  a.gate = p.gate;
  if (run.sequences) {
    a.starts = p.cuSeqlens ? run.sequences->starts.data() : nullptr;
    a.firstChunks = run.sequences->firstChunks.data();
  }
  a.list = run.list;
  a.q = p.q.data;
  a.k = p.k.data;
  a.dtype = p.q.dtype;
  a.kDType = p.k.dtype;
  a.g = p.g.data;
  a.gDType = p.g.dtype;
  a.beta = p.beta.data;
  a.betaDType = p.beta.dtype;
  a.outputScale = run.outputScale;
  a.aLog = p.aLog;
  a.dtBias = p.dtBias;
  a.lowerBound = p.lowerBound;
  a.scale = p.scale;
  a.betaActivation = p.betaActivation;
  a.keysFromGates = p.keysFromGates;
  a.qkL2norm = p.qkL2norm;
  if (run.trace) {
    a.traceStates = static_cast<float*>(run.trace->states);
    a.traceRows = static_cast<float*>(run.trace->rows);
  }
  a.chunkTokens = static_cast<int32_t>(chunkTokens(p.n));
  return a;
}

void shareColumns(const Stream& stream, int64_t heads, TokenArgs& args) {
  const int64_t tiles = (args.V + kTileColumns - 1) / kTileColumns, enough = 2 * stream.info().multiprocessors;
  const int64_t most = mostTiles(rowBlocks(args.K));
  args.tiles = static_cast<int32_t>(tiles < most ? tiles : most);
  const auto blocks = [&] { return (tiles + args.tiles - 1) / args.tiles; };
  while (args.tiles > 1 && heads * blocks() < enough) args.tiles = (args.tiles + 1) / 2;
  args.blocks = static_cast<int32_t>(blocks());
}

void runTokens(Stream& stream, const RankoneRecurrenceForward& args, const TokenRun& run) {
  const RankoneRecurrence& p = args.problem;
  const int64_t heads = run.count * p.HV;
  TokenArgs a = tokenArgs(p, run);
  shareColumns(stream, heads, a);
  a.columns = p.v.data;
  a.columnsDType = p.v.dtype;
  a.valueScale = p.valueScale;
  a.firstState = p.initialState;
  a.lastState = args.finalState;
  a.stateRows = p.stateRows;
  a.o = args.o;
  const bool delta = p.update == RANKONE_DELTA, trace = run.trace != nullptr;
  withRowBlocks(p.K, [&](auto blocks) {
    constexpr int kBlocks = decltype(blocks)::value;
    const auto kernel = delta   ? trace ? recurrenceToken<kBlocks, true, true> : recurrenceToken<kBlocks, true, false>
                          : trace ? recurrenceToken<kBlocks, false, true>
                                : recurrenceToken<kBlocks, false, false>;
    launchTokens<kBlocks>(stream, "recurrenceToken", kernel, a, heads);
  });
}

void recurrenceTokens(Stream& stream, const RankoneRecurrenceForward& args, const Sequences& sequences,
                      const Trace* trace) {
  runTokens(stream, args, {&sequences, nullptr, args.problem.N, nullptr, trace});
}

}  // namespace rankone::cuda
