#include "lora_forward_halves.cuh"

namespace rankone::cuda {

void loraForwardF16(LoraCall& call) { runHalves<F16Element>(call); }

}  // namespace rankone::cuda
