#pragma once
#include "stream.h"

namespace rankone::cuda {

void mamba2Prepare(Stream& stream, const RankoneMamba2& args, float* step, float* g);
void mamba2Skip(Stream& stream, const RankoneMamba2& args, RankoneFloats o, void* y, int32_t yDType);
void mamba2Gradients(Stream& stream, const RankoneMamba2& args, const RankoneMamba2Gradients& gradients);
// to += from
void add(Stream& stream, float* to, const float* from, int64_t count);

}  // namespace rankone::cuda
