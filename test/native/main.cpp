// rankone_native_tests [--quick] [--isas] [pattern...]
//
// Runs the tests whose names contain one of the patterns, or all, on the instruction set that RANKONE_ISA names, and
// ends with the line `N passed, N failed`. --isas prints the instruction sets of this machine instead.
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "check.h"
#include "core/cpu.h"
#include "core/parallel.h"

namespace rankone::test {
namespace {

using Tests = std::vector<std::pair<std::string, std::function<void()>>>;

Tests& tests() {
  static Tests list;
  return list;
}

bool quickRun = false;

bool wanted(const std::string& name, const std::vector<const char*>& patterns) {
  for (const char* p : patterns)
    if (name.find(p) != std::string::npos) return true;
  return patterns.empty();
}

bool passes(const std::string& name, const std::function<void()>& body) {
  std::printf("%s ... ", name.c_str());
  std::fflush(stdout);  // a crash leaves the name of its test
  const auto started = std::chrono::steady_clock::now();
  try {
    body();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    std::printf("ok  %.2f s\n", seconds.count());
    return true;
  } catch (const std::exception& e) {
    std::printf("FAIL\n  %s\n", e.what());
  }
  return false;
}

void listIsas() {
  for (int i = 0; i < kIsaCount; ++i)
    if (isaAvailable(static_cast<Isa>(i))) std::printf("%s\n", isaName(static_cast<Isa>(i)));
}

int run(const std::vector<const char*>& patterns) {
  setNumThreads(3);  // more than one, whatever this machine has
  int passed = 0, failed = 0;
  for (const auto& [name, body] : tests())
    if (wanted(name, patterns)) ++(passes(name, body) ? passed : failed);
  if (passed + failed == 0) {
    std::printf("no test matches\n");
    ++failed;
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}

}  // namespace

bool addTest(std::string name, std::function<void()> body) {
  tests().emplace_back(std::move(name), std::move(body));
  return true;
}

bool quick() { return quickRun; }

void check(bool holds, const char* format, ...) {
  if (holds) return;
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  throw Failure(text);
}

}  // namespace rankone::test

int main(int count, char** arguments) {
  std::vector<const char*> patterns;
  for (int i = 1; i < count; ++i) {
    if (!std::strcmp(arguments[i], "--quick")) {
      rankone::test::quickRun = true;
    } else if (!std::strcmp(arguments[i], "--isas")) {
      rankone::test::listIsas();
      return 0;
    } else {
      patterns.push_back(arguments[i]);
    }
  }
  try {
    return rankone::test::run(patterns);
  } catch (const std::exception& e) {  // such as an instruction set that this machine lacks
    std::printf("%s\n", e.what());
    return 1;
  }
}
