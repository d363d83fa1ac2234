// rankone_cuda_tests [--quick] [pattern...]
//
// Runs the tests whose names contain one of the patterns, or all, and ends with the line `N passed, N failed`.
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "harness.h"

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
  std::string failure;
  try {
    body();
  } catch (const std::exception& e) {
    failure = e.what();
  }
  for (const std::string& finding : findings()) failure += (failure.empty() ? "" : "\n  ") + finding;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  if (failure.empty()) {
    std::printf("ok  %.2f s\n", seconds.count());
  } else {
    std::printf("FAIL\n  %s\n", failure.c_str());
  }
  return failure.empty();
}

int run(const std::vector<const char*>& patterns) {
  prepareDevices();
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
    } else {
      patterns.push_back(arguments[i]);
    }
  }
  try {
    return rankone::test::run(patterns);
  } catch (const std::exception& e) {  // such as a library that does not load
    std::printf("%s\n", e.what());
    return 1;
  }
}
