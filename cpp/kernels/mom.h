// Mixture-of-memories: which memories a token goes to, rows put in the order of the memories, and results back in that
// of the tokens. See mom.inl.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

struct MomRouteArgs {
  FloatView logits;        // [rows,M]
  int64_t rows, M, k;      // 1 <= k <= M
  bool renormalize;        // the weights of a token add up to 1
  int64_t N, T;            // sequences, of T rows each where they are not packed
  IndexView starts;        // [N+1] rows, checked, or null
  float* weights;          // [rows,k]
  int32_t* memories;       // [rows,k], by descending logit
  int32_t *order, *slots;  // [rows k] and [rows,k], each the inverse of the other
  int32_t* cuSeqlens;      // [M N + 1]
  const CancelFlag* cancel;
};

struct MomRouteBackwardArgs {
  FloatView logits;       // [rows,M]
  const float* dWeights;  // [rows,k]
  float* dLogits;         // [rows,M]
  int64_t rows, M, k;
  bool renormalize;
  const CancelFlag* cancel;
};

// Rows of `width` elements; tokens are rows of x and y, entries those of the packed tensors, k to a token.
struct MomRowsArgs {
  int64_t tokens, k, width;
  const CancelFlag* cancel;
};
struct MomGatherArgs : MomRowsArgs {
  const void* x;         // [tokens,width]
  const int32_t* order;  // [tokens k], in range
  void* y;               // [tokens k,width]
  DType dtype;
};
struct MomGatherBackwardArgs : MomRowsArgs {
  FloatView dY;          // [tokens k,width]
  const int32_t* slots;  // [tokens,k], in range
  void* dX;              // [tokens,width]
  DType dXDType;
};
struct MomCombineArgs : MomRowsArgs {
  FloatView o;           // [tokens k,width]
  const float* weights;  // [tokens,k]
  const int32_t* slots;  // [tokens,k], in range
  FloatView shared;      // [tokens,width], or none
  void* y;               // [tokens,width]
  DType yDType;
};
struct MomCombineBackwardArgs : MomRowsArgs {
  FloatView o, dY;       // [tokens k,width] and [tokens,width]
  const float* weights;  // [tokens,k]
  const int32_t* slots;  // [tokens,k], in range
  void* dO;              // [tokens k,width]
  DType dODType;
  float* dWeights;  // [tokens,k]
};

void momRoute(const MomRouteArgs& args);
void momRouteBackward(const MomRouteBackwardArgs& args);
void momGather(const MomGatherArgs& args);
void momGatherBackward(const MomGatherBackwardArgs& args);
void momCombine(const MomCombineArgs& args);
void momCombineBackward(const MomCombineBackwardArgs& args);

}  // namespace rankone
