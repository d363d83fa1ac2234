#include "lora_forward_run.cuh"
#include "matmul_tile_fma.cuh"

namespace rankone::cuda {

namespace {

template <bool DIRECT>
using ManyFloats = LoraSchedule<FmaTile<128, 128, 32, 16, 16>, FmaTile<128, 64, 32, 16, 16>, 64, DIRECT, 2, 2, 1>;
template <bool DIRECT>
using FewFloats = LoraSchedule<FmaTile<16, 32, 64, 4, 32>, FmaTile<16, 32, 64, 4, 32>, 16, DIRECT, 4, 4, 2>;

template <bool DIRECT>
void runFloats(LoraCall& call) {
  call.problem.rows <= 16 ? run<FewFloats<DIRECT>>(call) : run<ManyFloats<DIRECT>>(call);
}

}  // namespace

void loraForwardF32(LoraCall& call) {
  const bool direct = !call.args.hasBase || call.args.format.format == RANKONE_WEIGHT_F32;
  direct ? runFloats<true>(call) : runFloats<false>(call);
}

}  // namespace rankone::cuda
