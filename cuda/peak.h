#pragma once
#include <cstdint>

#include "stream.h"

namespace rankone::cuda {

// Products of matrices that stay in registers or shared memory, for the device's rate of them: by mma.sync, or by wgmma
// (`wide`, sm_90a). Returns how many operations were put into the stream.
double matrixPeak(Stream& stream, bool wide, int64_t iterations);

}  // namespace rankone::cuda
