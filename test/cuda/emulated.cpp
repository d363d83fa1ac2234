// The tests' side of the emulator: the library is linked into the program.
#include <cstdlib>

#include "harness.h"
#include "simt/emulator.h"

namespace rankone::test {

const RankoneCuda& backend() {
  static const RankoneCuda* table = rankoneCuda(RANKONE_CUDA_VERSION);
  return *table;
}

std::vector<std::string> findings() {
  std::vector<std::string> texts;
  for (const simt::emulator::Finding& finding : simt::emulator::report().findings) texts.push_back(finding.text);
  return texts;
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
