#include "lora_forward_halves.cuh"

namespace rankone::cuda {

void loraForwardBf16(LoraCall& call) { runHalves<Bf16Element>(call); }

}  // namespace rankone::cuda
