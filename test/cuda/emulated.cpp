// The tests' side of the emulator: the library is linked into the program.
#include <cstdlib>
#include <utility>

#include "harness.h"
#include "simt/emulator.h"

namespace rankone::test {

const RankoneCuda& backend() {
  static const RankoneCuda* table = rankoneCuda(RANKONE_CUDA_VERSION);
  return *table;
}

namespace {

std::vector<std::string>& found() {
  static std::vector<std::string> texts;
  return texts;
}

simt::emulator::Report report() {
  simt::emulator::Report latest = simt::emulator::report();
  for (const simt::emulator::Finding& finding : latest.findings) found().push_back(finding.text);
  return latest;
}

}  // namespace

std::vector<std::string> findings() {
  report();
  return std::exchange(found(), {});
}

int64_t warpgroupProducts() {
  int64_t count = 0;
  for (const auto& [kernel, statistics] : report().kernels) count += statistics.wgmma;
  return count;
}

// Blocks as they were asked for, so that the emulator sees a step beyond them. RANKONE_EMULATED_SEED: of the order in
// which threads run.
void prepareDevices() {
  setenv("RANKONE_CUDA_MEMORY", "direct", 0);
  simt::emulator::options.quiet = true;
  if (const char* seed = std::getenv("RANKONE_EMULATED_SEED"))
    simt::emulator::options.seed = static_cast<unsigned>(std::atol(seed));
}

}  // namespace rankone::test
