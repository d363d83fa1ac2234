#include "lora_hopper_run.cuh"

namespace rankone::cuda {

bool loraHopperF16(LoraCall& call) { return runHopper<F16Element>(call); }

}  // namespace rankone::cuda
