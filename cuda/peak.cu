#include "peak.cuh"
#include "peak.h"

namespace rankone::cuda {

double peak(Stream& stream, int32_t kind, int64_t iterations) {
  const bool wide = kind == RANKONE_PEAK_WGMMA;
  if (wide && stream.info().major != 9) throw Failure(1, "wgmma: of compute capability 9.0 alone");
  const int blocks = stream.info().multiprocessors * (wide ? 1 : 2);
  const Scratch<float> out(stream, static_cast<size_t>(blocks) * kPeakThreads);
  const auto run = [&](const char* name, void (*kernel)(float*, int), size_t sharedBytes, double perIteration) {
    stream.launch(name, kernel, dim3(blocks), dim3(kPeakThreads), sharedBytes, out.data(),
                  static_cast<int>(iterations));
    return blocks * static_cast<double>(iterations) * perIteration;
  };
  if (wide) return run("wgmmaPeak", wgmmaPeakKernel, sizeof(WgmmaPeakShared), 2 * 4 * 2.0 * 64 * 256 * 16);
  if (kind == RANKONE_PEAK_FMA) return run("fmaPeak", fmaPeakKernel, 0, kPeakThreads * kPeakChains * 2.0);
  return run("mmaPeak", mmaPeakKernel, 0, kPeakThreads / 32 * kPeakTiles * 2.0 * 16 * 8 * 16);
}

}  // namespace rankone::cuda
