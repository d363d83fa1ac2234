// The rate of multiply-adds that the processor sustains at this moment, on as many threads as the engine uses. What a
// kernel's rate is a share of. Two operations per multiply-add, also where an instruction set has no fused one.
#pragma once

namespace rankone {

enum class FmaKind {
  F32,
  Bf16,  // dot products of bf16 pairs with float32 sums; Error(Range) where hasBf16Dot() is false
  Int8,  // dot products of four bytes with 32-bit sums; there too
};

// GF/s, measured for about `seconds`. Blocks the caller, who takes part.
double fmaPeak(FmaKind kind, double seconds);

}  // namespace rankone
