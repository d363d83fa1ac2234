// Forward, one update at a time: the state goes through registers once, whatever the number of tokens.
#pragma once
#include "recurrence_token.cuh"

namespace rankone::cuda {

// One token with the state in registers.
template <int kBlocks, bool kDelta, bool kTrace>
SIMT_DEV void advanceToken(const TokenArgs& args, const TokenHead& head, const TokenStage<kBlocks>& stage, int t,
                           int64_t token, StateTile<kBlocks>& state) {
  if (args.gate != RANKONE_GATE_NONE) state.decay(stage, t);
  SIMT_NOUNROLL
  for (int j = 0; j < args.n; ++j) {
    const int step = t * args.n + j;
    float u[4];
    state.stagedColumns(stage.columns[step], u);
    if constexpr (kDelta) {
      float p[4];
      state.product(stage.k[step], p);
      const float beta = stage.beta[step];
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) u[e] = beta * (u[e] - p[e]);
      if (kTrace && state.writes())
        state.writeColumns(args.traceRows + ((token * args.n + j) * args.HV + head.hv) * args.V, u);
    }
    state.add(stage.k[step], u);
  }
  if (!args.o) return;
  float o[4];
  state.product(stage.q[t], o);
  const float scale = stage.scale[t];
  SIMT_UNROLL
  for (int e = 0; e < 4; ++e) o[e] *= scale;
  if (state.writes()) state.writeColumns(args.o, args.dtype, token * args.HV + head.hv, o);
}

template <int kBlocks, bool kDelta, bool kTrace>
__global__ void __launch_bounds__(tokenThreads(kBlocks), kTrace ? traceBlocks(kBlocks) : tokenBlocks(kBlocks))
    recurrenceToken(const TokenArgs args) {
  auto& shared = simt::shared<TokenShared<kBlocks>>();
  auto& stages = shared.stages;
  const TokenHead head(args);
  const int warp = static_cast<int>(threadIdx.x) / 32, stageTokens = kStageSteps / args.n;
  const int64_t size = static_cast<int64_t>(args.K) * args.V;
  const auto countOf = [&](int64_t first) {
    return static_cast<int>(head.tokens - first < stageTokens ? head.tokens - first : stageTokens);
  };

  if (warp == args.tiles) {
    TokenReader<kBlocks> reader(args, head);
    if (head.tokens > 0) reader.begin(0);
    for (int64_t first = 0, i = 0; first < head.tokens; first += stageTokens, ++i) {
      const int64_t following = first + stageTokens < head.tokens ? first + stageTokens : -1;
      reader.fill(stages[i % 2], first, countOf(first), following);
      simt::bar_sync(kStageReady, 32 * (args.tiles + 1));
    }
    return;
  }

  const int64_t at = ((args.stateRows ? args.stateRows[head.sequence] : head.sequence) * args.HV + head.hv) * size;
  if (threadIdx.x % 32 == 0) shared.V[warp] = args.V;
  simt::syncwarp();
  StateTile<kBlocks> state(args, head);
  if (args.firstState)
    state.load(args.firstState + at);
  else
    state.clear();
  for (int64_t first = 0, i = 0; first < head.tokens; first += stageTokens, ++i) {
    simt::bar_sync(kStageReady, 32 * (args.tiles + 1));
    const int count = countOf(first);
    for (int t = 0; t < count; ++t) {
      const int64_t token = first + t;
      if (kTrace && token % args.chunkTokens == 0) {
        const int64_t chunk = args.firstChunks[head.sequence] + token / args.chunkTokens;
        state.store(args.traceStates + (chunk * args.HV + head.hv) * size, shared.V[warp]);
      }
      advanceToken<kBlocks, kDelta, kTrace>(args, head, stages[i % 2], t, head.start + token, state);
    }
  }
  if (args.lastState && (head.tokens > 0 || args.lastState != args.firstState))
    state.store(args.lastState + at, shared.V[warp]);
}

}  // namespace rankone::cuda
