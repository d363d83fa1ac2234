#include "runner.h"

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <utility>

#include "check.h"

namespace rankone::test {
namespace {

using Tests = std::vector<std::pair<std::string, std::function<void()>>>;

Tests& tests() {
  static Tests list;
  return list;
}

bool quickRun = false;

bool wanted(const std::string& name, const std::vector<std::string>& patterns) {
  for (const std::string& p : patterns)
    if (name.find(p) != std::string::npos) return true;
  return patterns.empty();
}

bool passes(const std::string& name, const std::function<void()>& body, const Runner& runner) {
  std::printf("%s ... ", name.c_str());
  std::fflush(stdout);  // a crash leaves the name of its test
  const auto started = std::chrono::steady_clock::now();
  std::string failure;
  try {
    body();
  } catch (const std::exception& e) {
    failure = e.what();
  }
  if (runner.findings)
    for (const std::string& finding : runner.findings()) failure += (failure.empty() ? "" : "\n  ") + finding;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  if (failure.empty()) {
    std::printf("ok  %.2f s\n", seconds.count());
  } else {
    std::printf("FAIL\n  %s\n", failure.c_str());
  }
  return failure.empty();
}

int run(const std::vector<std::string>& arguments, const Runner& runner) {
  std::vector<std::string> patterns;
  size_t part = 1, parts = 1;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--quick") {
      quickRun = true;
    } else if (arguments[i] == "--part") {
      const char* value = i + 1 < arguments.size() ? arguments[++i].c_str() : "";
      if (std::sscanf(value, "%zu/%zu", &part, &parts) != 2 || part < 1 || part > parts)
        throw Failure("--part: expected I/N, with I from 1 to N");
    } else {
      patterns.push_back(arguments[i]);
    }
  }
  runner.prepare();
  int passed = 0, failed = 0;
  size_t found = 0;
  for (const auto& [name, body] : tests())
    if (wanted(name, patterns) && found++ % parts == part - 1) ++(passes(name, body, runner) ? passed : failed);
  if (found == 0) {
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

int runTests(const std::vector<std::string>& arguments, const Runner& runner) {
  try {
    return run(arguments, runner);
  } catch (
      const std::exception& e) {  // such as an instruction set that this machine lacks, a library that does not load
    std::printf("%s\n", e.what());
    return 1;
  }
}

}  // namespace rankone::test
