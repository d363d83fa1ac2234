// The fused LoRA product and its gradients. See lora.inl.
//
//   y = d * (W x) + bias + sum over the row's adapters e of  gate scale_e (B_e M_e phi(A_e x' + a_e) + c_e)
//
// x [rows, in], y [rows, out]; x' is x, or x with dropout. d and M are ones where an adapter has none.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "core/tensor.h"
#include "kernels/panels.h"

namespace rankone {

// SelfTopK: s = t / |t|, of which the `activeRanks` largest (of equal ones the first) get the weights
// softmax(s); phi_i = weight_i t_i, the others 0. Gelu is the one with erf.
enum class RankActivation : uint8_t { None, Relu, Gelu, Silu, SelfTopK };

// An adapter as kernels read it; whoever makes one keeps what it points to.
struct LoraAdapter {
  int64_t rank = 0;     // rows of A in use
  int64_t midRank = 0;  // columns of B: rank, or the rows of mid
  float scale = 1;
  Panels a;  // [rank, in], or aIndex: t_i = x[aIndex[i]]
  Panels b;  // [out, midRank], or bIndex: y[bIndex[i]] += w_i
  const int32_t* aIndex = nullptr;
  const int32_t* bIndex = nullptr;
  const int32_t* bOrder = nullptr;     // ranks, by rising bIndex; of equal ones the first first
  const float* mid = nullptr;          // M [midRank, rank]
  const float* midDiagonal = nullptr;  // or M's diagonal [rank]
  RankActivation activation = RankActivation::None;
  int64_t activeRanks = 0;
  const float* rankBias = nullptr;   // a [rank]
  const float* baseScale = nullptr;  // d [out]; only where a row has one adapter
  const float* outBias = nullptr;    // c [out]
};

struct LoraArgs {
  const void* x = nullptr;
  DType dtype = DType::F32;  // of x
  int64_t rows = 0, in = 0, out = 0;
  const Panels* base = nullptr;  // W [out, in]; null: none, or
  bool identity = false;         // W = 1
  FloatView bias;                // [out]
  const LoraAdapter* const* adapters = nullptr;
  // [rows, perRow] into adapters, -1: none; null: no adapters at all. A row's adapters are added by ascending slot, so
  // that whoever numbers them should do so by something that is the same in every call.
  const int32_t* slots = nullptr;
  int64_t perRow = 1;
  const float* gates = nullptr;  // [rows, perRow]; null: ones
  // Dropout on what A reads: element (row, column) stays, divided by 1 - p, where word column % 4 of Philox4x32-10 with
  // counter (column / 4, row % 2^32, row / 2^32, 0) and key (seed % 2^32, seed / 2^32) is at least p 2^32.
  double dropout = 0;
  uint64_t seed = 0;
  float* t = nullptr;  // A x' of every row and slot, [rows, perRow, tRanks]: written by the forward where wanted,
  int64_t tRanks = 0;  // read by the backward where given; the largest rank of the adapters at least
  bool bf16 = false;   // products with operands rounded to bf16, but for t; only where hasBf16Dot()
  // Forward only, of an Int8 base, where hasInt8Dot(): rows of x are rounded to multiples of their largest magnitude /
  // 127 for the base's product, whose sums are exact then, and to bf16 for A's.
  bool int8 = false;
  const CancelFlag* cancel = nullptr;
};

// A row's bits depend on its own x, adapters and gates alone: neither on other rows nor on how many there are.
void loraForward(const LoraArgs& args, void* y, DType yDType);

// What is null is not computed. Sums over rows are added to what stands there, in ascending order, in blocks of a
// number of rows that the shapes decide.
struct LoraAdapterGradient {
  float* a = nullptr;    // [rank, in]
  float* b = nullptr;    // [out, bRanks]
  int64_t bRanks = 0;    // columns of the caller's B, midRank at least
  float* mid = nullptr;  // [midRank, midRanks], or [rank] for a diagonal
  int64_t midRanks = 0;
  float* rankBias = nullptr;   // [rank]
  float* scale = nullptr;      // [1]
  float* baseScale = nullptr;  // [out]
  float* outBias = nullptr;    // [out]
};

struct LoraGradients {
  const void* dY = nullptr;  // [rows, out], in args.dtype
  void* dx = nullptr;        // [rows, in]
  DType dxDType = DType::F32;
  float* dBias = nullptr;                         // [out], written
  float* dGates = nullptr;                        // [rows, perRow], written where a row has an adapter
  const LoraAdapterGradient* adapters = nullptr;  // as many as args.adapters
  int64_t adapterCount = 0;
};

void loraBackward(const LoraArgs& args, const LoraGradients& gradients);

}  // namespace rankone
