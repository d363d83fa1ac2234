// The gradient of the state from the last token to the first, one update at a time, D with the shape of the state:
//
//     at a token's last update   D += scale q dO^T
//     of every update            w = D^T k,  D -= k (beta w)^T      (additive: w alone)
//     before its first           D <- diag(e^g) D
#pragma once
#include "recurrence_token.cuh"

namespace rankone::cuda {

template <int kBlocks, bool kDelta>
SIMT_DEV void reverseToken(const TokenArgs& args, const TokenHead& head, const TokenStage<kBlocks>& stage, int t,
                           int64_t token, StateTile<kBlocks>& state) {
  float x[4];
  state.stagedColumns(stage.columns[t], x);
  const float scale = stage.scale[t];
  SIMT_UNROLL
  for (int e = 0; e < 4; ++e) x[e] *= scale;
  state.add(stage.q[t], x);
  SIMT_NOUNROLL
  for (int j = args.n - 1; j >= 0; --j) {
    const int step = t * args.n + j;
    state.product(stage.k[step], x);
    if (state.writes()) state.writeColumns(args.traceRows + ((token * args.n + j) * args.HV + head.hv) * args.V, x);
    if constexpr (kDelta) {
      const float beta = stage.beta[step];
      SIMT_UNROLL
      for (int e = 0; e < 4; ++e) x[e] *= -beta;
      state.add(stage.k[step], x);
    }
  }
  if (args.gate != RANKONE_GATE_NONE) state.decay(stage, t);
}

template <int kBlocks, bool kDelta>
__global__ void __launch_bounds__(tokenThreads(kBlocks), traceBlocks(kBlocks))
    recurrenceTokenReverse(const TokenArgs args) {
  auto& shared = simt::shared<TokenShared<kBlocks>>();
  auto& stages = shared.stages;
  const TokenHead head(args);
  const int warp = static_cast<int>(threadIdx.x) / 32, stageTokens = kStageSteps / args.n;
  const int64_t size = static_cast<int64_t>(args.K) * args.V, fills = (head.tokens + stageTokens - 1) / stageTokens;
  const auto countOf = [&](int64_t first) {
    return static_cast<int>(head.tokens - first < stageTokens ? head.tokens - first : stageTokens);
  };

  if (warp == args.tiles) {
    TokenReader<kBlocks> reader(args, head);
    if (fills > 0) reader.begin((fills - 1) * stageTokens);
    for (int64_t i = fills - 1; i >= 0; --i) {
      const int64_t first = i * stageTokens;
      reader.fill(stages[i % 2], first, countOf(first), first - stageTokens);
      simt::bar_sync(kStageReady, 32 * (args.tiles + 1));
    }
    return;
  }

  const int64_t at = (head.sequence * args.HV + head.hv) * size;
  if (threadIdx.x % 32 == 0) shared.V[warp] = args.V;
  simt::syncwarp();
  StateTile<kBlocks> state(args, head);
  if (args.firstState)
    state.load(args.firstState + at);
  else
    state.clear();
  for (int64_t i = fills - 1; i >= 0; --i) {
    simt::bar_sync(kStageReady, 32 * (args.tiles + 1));
    const int64_t first = i * stageTokens;
    for (int t = countOf(first) - 1; t >= 0; --t) {
      const int64_t token = first + t;
      if ((token + 1) % args.chunkTokens == 0 || token + 1 == head.tokens) {
        const int64_t chunk = args.firstChunks[head.sequence] + token / args.chunkTokens;
        state.store(args.traceStates + (chunk * args.HV + head.hv) * size, shared.V[warp]);
      }
      reverseToken<kBlocks, kDelta>(args, head, stages[i % 2], t, head.start + token, state);
    }
  }
  if (args.lastState) state.store(args.lastState + at, shared.V[warp]);
}

}  // namespace rankone::cuda
