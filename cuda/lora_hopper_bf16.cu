#include "lora_hopper_run.cuh"

namespace rankone::cuda {

void loraHopperBf16(LoraCall& call) { runHopper<Bf16Element>(call); }

}  // namespace rankone::cuda
