#include "lora_hopper_run.cuh"

namespace rankone::cuda {

void loraHopperF16(LoraCall& call) { runHopper<F16Element>(call); }

}  // namespace rankone::cuda
