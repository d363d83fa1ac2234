// Schedules of the fused LoRA product on the tensor cores.
#pragma once
#include "lora_forward_run.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// Many rows; and few, where W is read once and what counts is how much of it is on its way.
template <class Element, bool DIRECT>
using ManyRows = LoraSchedule<MmaTile<Element, 128, 128, 64, 2, 2>, MmaTile<Element, 128, 64, 64, 4, 1>, 64, DIRECT,
                              DIRECT ? 3 : 2, 2, 2>;
template <class Element, bool DIRECT, int ROWS>
using FewRows = LoraSchedule<MmaTile<Element, ROWS, 32, 128, 1, 4>, MmaTile<Element, ROWS, 32, 128, 1, 4>, 16, DIRECT,
                             ROWS == 64 ? 3 : 6, ROWS == 64 ? 3 : 6, 2>;

// Whether anything was launched: a device may have too little shared memory.
template <class Element, bool DIRECT>
bool runHalves(LoraCall& call) {
  const int64_t rows = call.problem.rows;
  const auto fits = [&](size_t bytes) { return bytes + kKiB <= sharedMemory(call.stream.info()); };
  if (rows > 64 && fits(sharedBytes<ManyRows<Element, DIRECT>>(call))) {
    run<ManyRows<Element, DIRECT>>(call);
  } else if (rows > 16 && fits(sharedBytes<FewRows<Element, DIRECT, 64>>(call))) {
    run<FewRows<Element, DIRECT, 64>>(call);
  } else if (fits(sharedBytes<FewRows<Element, DIRECT, 16>>(call))) {
    run<FewRows<Element, DIRECT, 16>>(call);
  } else {
    return false;
  }
  return true;
}

template <class Element>
bool runHalves(LoraCall& call) {
  const bool direct = !call.args.hasBase || call.args.format.format == Element::kFormat;
  return direct ? runHalves<Element, true>(call) : runHalves<Element, false>(call);
}

}  // namespace rankone::cuda
