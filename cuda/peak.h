#pragma once
#include <cstdint>

#include "stream.h"

namespace rankone::cuda {

// Arithmetic on operands that stay in registers or shared memory, for the device's rate of it: RANKONE_PEAK_MMA bf16
// products by mma.sync, _WGMMA by wgmma (sm_90a), _FMA float32 multiply-adds. Returns how many operations were put into
// the stream.
double peak(Stream& stream, int32_t kind, int64_t iterations);

}  // namespace rankone::cuda
