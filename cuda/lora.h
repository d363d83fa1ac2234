// The fused LoRA product on CUDA. See backend.h for arguments, cpp/kernels/lora.h for the formula.
#pragma once
#include "backend.h"
#include "stream.h"

namespace rankone::cuda {

void loraForward(Stream& stream, const RankoneLoraForward& args);
void loraBackward(Stream& stream, const RankoneLoraBackward& args);

}  // namespace rankone::cuda
