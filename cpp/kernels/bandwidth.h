// What the processor moves between memory and registers at this moment, on as many threads as the engine uses: the
// other ceiling of a kernel, beside the peak of fma_peak.h.
#pragma once
#include <cstddef>

namespace rankone {

enum class Traffic {
  Read,    // every byte read
  Update,  // every byte read and written back in place: counts twice
};

// GB/s over a working set of about `bytes` on every thread, whose size decides which cache answers. Measured for about
// `seconds`, the first sweep of each thread not counted. Blocks the caller, who takes part. Throws std::bad_alloc.
double bandwidth(Traffic traffic, size_t bytes, double seconds);

}  // namespace rankone
