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

// Of the launches, until somebody asks for it.
std::vector<std::string> found;
int64_t products = 0;

void takeReport() {
  const simt::emulator::Report report = simt::emulator::report();
  for (const simt::emulator::Finding& finding : report.findings) found.push_back(finding.text);
  for (const auto& kernel : report.kernels) products += kernel.second.wgmma;
}

}  // namespace

std::vector<std::string> findings() {
  takeReport();
  return std::exchange(found, {});
}

int64_t wgmmaProducts() {
  takeReport();
  return std::exchange(products, 0);
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
