// cuda_bench [--json FILE] [--seconds S] [--tiny] [pattern...]
//
// Times the CUDA library that RANKONE_CUDA_PATH names, without Node: recurrence forward, backward and decode, and the
// fused LoRA product, those whose names contain a pattern. Medians of many calls by CUDA events, over arguments that no
// cache holds; shares of the copy bandwidth and of the tensor cores' rate that were measured at the start of the run.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "bench.h"

using namespace rankone::bench;

int main(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const char* argument = arguments[i];
    if (!std::strcmp(argument, "--tiny")) {
      options.tiny = true;
    } else if (!std::strcmp(argument, "--json") && i + 1 < count) {
      options.json = arguments[++i];
    } else if (!std::strcmp(argument, "--seconds") && i + 1 < count) {
      options.seconds = std::atof(arguments[++i]);
    } else {
      options.patterns.push_back(argument);
    }
  }
  try {
    Bench bench(options);
    bench.measurePeaks();
    int failed = 0;
    for (const auto cases : {recurrenceCases, loraCases}) {
      try {
        cases(bench);
      } catch (const std::exception& e) {
        std::printf("FAIL %s\n", e.what());
        ++failed;
      }
    }
    bench.write();
    if (bench.results().empty()) std::printf("no case matches\n");
    return failed || bench.results().empty() ? 1 : 0;
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
}
