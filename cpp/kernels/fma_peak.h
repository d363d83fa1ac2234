// The rate of float32 multiply-adds that the processor sustains at this moment, on as many threads as the engine uses.
// What a kernel's rate is a share of. Two operations per multiply-add, also where an instruction set has no fused one.
#pragma once

namespace rankone {

// GF/s, measured for about `seconds`. Blocks the caller, who takes part.
double fmaPeak(double seconds);

}  // namespace rankone
