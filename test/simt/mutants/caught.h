// A fault that the emulator must catch, beside its fixed twin, which must be clean.
#pragma once

#include "simt/check.h"

namespace mutants {

using simt::emulator::Kind;
using simt::emulator::Report;

// In which builds a fault is seen.
enum class Seen { ALWAYS, CHECKED };

inline bool mentions(const Report& report, Kind kind, const std::string& text) {
  for (const simt::emulator::Finding& finding : report.findings) {
    if (finding.kind == kind && finding.text.find(text) != std::string::npos) return true;
  }
  return false;
}

// `run(true)` launches the faulty kernel, `run(false)` its twin. A finding of the kind must hold each of `texts`.
template <class Run>
void expectCaught(Seen seen, Kind kind, const std::vector<std::string>& texts, Run run) {
  for (const unsigned seed : {0u, 1u, 7u}) {
    simt::emulator::options.seed = seed;
    simt::emulator::report();
    run(false);
    const Report clean = simt::emulator::report();
    EXPECT(clean.clean());
    for (const auto& finding : clean.findings) std::printf("    seed %u: %s\n", seed, finding.text.c_str());
    if (seen == Seen::CHECKED && !simt::emulator::instrumented) continue;
    run(true);
    const Report report = simt::emulator::report();
    EXPECT(report.count(kind) > 0);
    for (const std::string& text : texts) {
      if (mentions(report, kind, text)) continue;
      simt::check::fail(__FILE__, __LINE__, "no finding mentions: " + text);
      for (const auto& finding : report.findings) std::printf("    seed %u: %s\n", seed, finding.text.c_str());
    }
  }
  simt::emulator::options.seed = 0;
}

// "order_test.cpp:12"
inline std::string line(const char* file, int number) {
  const char* slash = std::strrchr(file, '/');
  return std::string(slash ? slash + 1 : file) + ":" + std::to_string(number);
}

}  // namespace mutants
