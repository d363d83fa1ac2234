// rankone_cuda_tests, with the arguments of native/runner.h
#include "harness.h"
#include "native/runner.h"

int main(int count, char** arguments) {
  using namespace rankone::test;
  return runTests({arguments + 1, arguments + count}, {prepareDevices, findings});
}
