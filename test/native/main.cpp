// rankone_native_tests [--isas] or what runner.h says
//
// Runs on the instruction set that RANKONE_ISA names. --isas prints the instruction sets of this machine instead.
#include <cstdio>

#include "core/cpu.h"
#include "core/parallel.h"
#include "runner.h"

int main(int count, char** arguments) {
  using namespace rankone;
  const std::vector<std::string> given(arguments + 1, arguments + count);
  if (given == std::vector<std::string>{"--isas"}) {
    for (int i = 0; i < kIsaCount; ++i)
      if (isaAvailable(static_cast<Isa>(i))) std::printf("%s\n", isaName(static_cast<Isa>(i)));
    return 0;
  }
  return test::runTests(given,
                        {[] { setNumThreads(3); }, nullptr});  // more threads than one, whatever this machine has
}
