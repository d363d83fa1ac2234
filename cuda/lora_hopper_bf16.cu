#include "lora_hopper_run.cuh"

namespace rankone::cuda {

bool loraHopperBf16(LoraCall& call) { return runHopper<Bf16Element>(call); }

}  // namespace rankone::cuda
