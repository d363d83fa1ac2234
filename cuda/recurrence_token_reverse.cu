#include "recurrence_token.h"
#include "recurrence_token_reverse.cuh"

namespace rankone::cuda {

void recurrenceReverseTokens(Stream& stream, const RankoneRecurrenceBackward& args, const Sequences& sequences,
                             const Prepared&, const Trace& reverse) {
  const RankoneRecurrence& p = args.problem;
  const int64_t heads = p.N * p.HV;
  TokenArgs a = tokenArgs(p, {&sequences, nullptr, p.N, nullptr, &reverse});
  shareColumns(stream, heads, a);
  a.columns = args.dO.data;
  a.columnsDType = args.dO.dtype;
  a.columnsByToken = true;
  a.firstState = args.dFinalState;
  a.lastState = args.dInitialState;
  const bool delta = p.update == RANKONE_DELTA;
  withRowBlocks(p.K, [&](auto blocks) {
    constexpr int kBlocks = decltype(blocks)::value;
    launchTokens<kBlocks>(stream, "recurrenceTokenReverse",
                          delta ? recurrenceTokenReverse<kBlocks, true> : recurrenceTokenReverse<kBlocks, false>, a,
                          heads);
  });
}

}  // namespace rankone::cuda
