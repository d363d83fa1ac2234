#include "lora_forward_halves.cuh"

namespace rankone::cuda {

bool loraForwardBf16(LoraCall& call) { return runHalves<Bf16Element>(call); }

}  // namespace rankone::cuda
