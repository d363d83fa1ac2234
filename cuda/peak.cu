#include "peak.cuh"
#include "peak.h"

namespace rankone::cuda {

double matrixPeak(Stream& stream, bool wide, int64_t iterations) {
  if (wide && stream.info().major != 9) throw Failure(1, "wgmma: of compute capability 9.0 alone");
  const int blocks = stream.info().multiprocessors * (wide ? 1 : 2);
  const Scratch<float> out(stream, static_cast<size_t>(blocks) * kPeakThreads);
  stream.launch(wide ? "wgmmaPeak" : "mmaPeak", wide ? wgmmaPeakKernel : mmaPeakKernel, dim3(blocks),
                dim3(kPeakThreads), wide ? sizeof(WgmmaPeakShared) : 0, out.data(), static_cast<int>(iterations));
  const double perIteration = wide ? 2 * 4 * 2.0 * 64 * 256 * 16 : kPeakThreads / 32 * kPeakTiles * 2.0 * 16 * 8 * 16;
  return blocks * static_cast<double>(iterations) * perIteration;
}

}  // namespace rankone::cuda
