// main() of the programs that tests are linked into: this folder's, and test/cuda's.
#pragma once
#include <functional>
#include <string>
#include <vector>

namespace rankone::test {

struct Runner {
  // Before the first test.
  std::function<void()> prepare;
  // After each: what else makes it fail.
  std::function<std::vector<std::string>()> findings;
};

// Arguments are [--quick] [--part I/N] [pattern...]: the tests whose names contain one of the patterns, or all; every
// Nth of them, from the Ith on. Ends with the line `N passed, N failed`. Returns the exit code.
int runTests(const std::vector<std::string>& arguments, const Runner& runner);

}  // namespace rankone::test
