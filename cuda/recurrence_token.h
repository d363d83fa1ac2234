// Arguments of the token form's kernels, made on the host.
#pragma once
#include "recurrence.h"
#include "recurrence_token.cuh"

namespace rankone::cuda {

// What the forward and the reverse have in common. Sequences may be null where every row of the batch is one.
TokenArgs tokenArgs(const RankoneRecurrence& problem, const Sequences* sequences);

// How a head's columns are shared out, for a device and a number of heads: the results do not depend on it.
void shareColumns(const Stream& stream, int64_t heads, TokenArgs& args);

template <class Kernel>
void launchTokens(Stream& stream, const char* name, const TokenArgs& args, int64_t heads, size_t stageBytes,
                  Kernel* kernel) {
  // A single stage serves where one takes all tokens.
  const bool one = !args.starts && args.T * args.n <= kStageSteps / args.n * args.n;
  stream.launch(name, kernel, static_cast<unsigned>(heads * args.blocks), static_cast<unsigned>(32 * (args.tiles + 1)),
                (one ? 1 : 2) * stageBytes, args);
}

}  // namespace rankone::cuda
