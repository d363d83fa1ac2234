// The token form on the host: what its forward and its reverse have in common.
#pragma once
#include <type_traits>

#include "recurrence.h"
#include "recurrence_token.cuh"

namespace rankone::cuda {

// Which sequences to take, and what goes beside the problem. Sequences may be null for rows of a batch without a trace.
struct TokenRun {
  const Sequences* sequences;
  const int32_t* list;  // in device memory, or null: all
  int64_t count;
  const float* outputScale;  // [B*T,H] multiplies rows of o, or null
  const Trace* trace;
};
void runTokens(Stream& stream, const RankoneRecurrenceForward& args, const TokenRun& run);

// Everything but where columns, states and results lie.
TokenArgs tokenArgs(const RankoneRecurrence& problem, const TokenRun& run);

// Shares the columns of `heads` heads out. More and smaller blocks where there are few; no result depends on it.
void shareColumns(const Stream& stream, int64_t heads, TokenArgs& args);

// The 32-row blocks of the kernel that takes K.
constexpr int rowBlocks(int64_t K) { return K <= 64 ? 2 : K <= 128 ? 4 : K <= 192 ? 6 : 8; }
// f(that number, as a constant).
template <class F>
void withRowBlocks(int64_t K, F&& f) {
  switch (rowBlocks(K)) {
    case 2: return f(std::integral_constant<int, 2>());
    case 4: return f(std::integral_constant<int, 4>());
    case 6: return f(std::integral_constant<int, 6>());
    default: return f(std::integral_constant<int, 8>());
  }
}

template <int kBlocks>
void launchTokens(Stream& stream, const char* name, void (*kernel)(TokenArgs), const TokenArgs& args, int64_t heads) {
  const bool oneStage = !args.starts && args.T <= kStageSteps / args.n;
  stream.launch(name, kernel, static_cast<unsigned>(heads * args.blocks), static_cast<unsigned>(32 * (args.tiles + 1)),
                sizeof(TokenShared<kBlocks>) - (oneStage ? sizeof(TokenStage<kBlocks>) : 0), args);
}

}  // namespace rankone::cuda
