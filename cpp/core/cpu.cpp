#include "core/cpu.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rankone {

// What every processor of the architecture has.
#if defined(__aarch64__)
constexpr const char *kBaselineName = "neon", *kIsaNames = "neon";
#else
constexpr const char *kBaselineName = "baseline", *kIsaNames = "baseline, avx2, avx512 or avx512bf16";
#endif

const char* isaName(Isa isa) {
  switch (isa) {
    case Isa::Baseline: return kBaselineName;
    case Isa::Avx2: return "avx2";
    case Isa::Avx512: return "avx512";
    case Isa::Avx512Bf16: return "avx512bf16";
  }
  return "?";
}

#if defined(__x86_64__)
namespace {

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false;
};

// Own cpuid and xgetbv: __builtin_cpu_supports needs a runtime that some toolchains lack.
Features detect() {
  Features f;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return f;  // OSXSAVE
  const bool fma = (c & (1u << 12)) && (c & (1u << 29));               // FMA, F16C
  unsigned lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  const bool ymm = (lo & 0x06) == 0x06, zmm = (lo & 0xe6) == 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.avx2 = ymm && fma && (b & (1u << 5));
  f.avx512 =
      f.avx2 && zmm && (b & (1u << 16)) && (b & (1u << 17)) && (b & (1u << 30)) && (b & (1u << 31));  // F DQ BW VL
  const bool vnni = c & (1u << 11);
  f.avx512bf16 = f.avx512 && vnni && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
  return f;
}

}  // namespace
#endif

bool isaAvailable(Isa isa) {
#if defined(RANKONE_ONLY_LEVEL)
  if (std::min(static_cast<int>(isa), 2) != RANKONE_ONLY_LEVEL) return false;
#endif
  if (isa == Isa::Baseline) return true;
#if defined(__x86_64__)
  static const Features features = detect();
  return isa == Isa::Avx2 ? features.avx2 : isa == Isa::Avx512 ? features.avx512 : features.avx512bf16;
#else
  return false;
#endif
}

Isa activeIsa() {
  static const Isa chosen = [] {
    const char* wish = std::getenv("RANKONE_ISA");
    if (!wish || !*wish) {
      for (Isa isa : {Isa::Avx512Bf16, Isa::Avx512, Isa::Avx2})
        if (isaAvailable(isa)) return isa;
      return Isa::Baseline;
    }
    for (Isa isa : {Isa::Baseline, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16}) {
      if (std::strcmp(wish, isaName(isa)) != 0) continue;
      if (!isaAvailable(isa)) fail(ErrorKind::Range, "RANKONE_ISA=%s: this machine does not have it", wish);
      return isa;
    }
    fail(ErrorKind::Range, "RANKONE_ISA=%s: expected %s", wish, kIsaNames);
  }();
  return chosen;
}

}  // namespace rankone
