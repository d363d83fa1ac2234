#include "lora_forward_halves.cuh"

namespace rankone::cuda {

bool loraForwardF16(LoraCall& call) { return runHalves<F16Element>(call); }

}  // namespace rankone::cuda
