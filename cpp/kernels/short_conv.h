// Causal depthwise convolution over time. See short_conv.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

constexpr int64_t kMaxConvWidth = 64;

constexpr int64_t kConvBlock = 64;  // tokens of a task; at least kMaxConvWidth: only a first block sees the past

// N sequences of T tokens each, or packed ones. Each is cut into blocks of kConvBlock tokens from its own first one on;
// one without tokens has a block too, for its states.
struct ConvSequences {
  int64_t N = 0, T = 0;
  const int64_t* starts = nullptr;  // [N+1], packed: the first token of each
  const int64_t* blocks = nullptr;  // [N+1], packed: the first block of each

  static int64_t blocksOf(int64_t tokens) { return tokens > kConvBlock ? (tokens + kConvBlock - 1) / kConvBlock : 1; }
  int64_t begin(int64_t n) const { return starts ? starts[n] : n * T; }
  int64_t tokens(int64_t n) const { return starts ? starts[n + 1] - starts[n] : T; }
  int64_t firstBlock(int64_t n) const { return blocks ? blocks[n] : n * blocksOf(T); }
  int64_t blockCount() const { return firstBlock(N); }
  int64_t sequenceOf(int64_t block) const {
    if (!blocks) return block / blocksOf(T);
    int64_t low = 0, high = N;  // blocks[low] <= block < blocks[high]
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (blocks[middle] <= block ? low : high) = middle;
    }
    return low;
  }
};

struct ShortConvArgs {
  const void* x;                        // [tokens,D]
  const void* weight;                   // [D,W], the last tap meets the newest token
  const void* bias;                     // [D], or null
  const float* initialState;            // [N,D,W-1], oldest first, or null: zeros
  void* y;                              // [tokens,D]
  float* finalState;                    // [N,D,W-1], may be the initial one's memory; or null
  IndexView stateRows;                  // [N]: where in the states those of a sequence are; absent: in their order
  DType dtype, weightDType, biasDType;  // dtype: of x and y
  ConvSequences sequences;
  int64_t D, W;
  bool silu;
  const CancelFlag* cancel = nullptr;
};

struct ShortConvBackwardArgs {
  const void* x;                        // [tokens,D]
  const void* weight;                   // [D,W]
  const void* bias;                     // [D], or null
  const float* initialState;            // [N,D,W-1], or null
  const void* dY;                       // [tokens,D]
  const float* dFinalState;             // [N,D,W-1], or null
  void* dX;                             // [tokens,D]
  void* dWeight;                        // [D,W]
  void* dBias;                          // [D]; null without bias
  float* dInitialState;                 // [N,D,W-1]; null without initialState
  DType dtype, weightDType, biasDType;  // dtype: of x and dY
  DType gradDType, dWeightDType, dBiasDType;
  ConvSequences sequences;
  int64_t D, W;
  bool silu;
  const CancelFlag* cancel = nullptr;
};

void shortConv(const ShortConvArgs& args);
void shortConvBackward(const ShortConvBackwardArgs& args);

}  // namespace rankone
