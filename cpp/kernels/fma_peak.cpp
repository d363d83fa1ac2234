#include "kernels/fma_peak.h"

#include <chrono>

#include "core/error.h"
#include "kernels/thread_rates.h"

#define RANKONE_KERNEL "kernels/fma_peak.inl"
#define RANKONE_KERNEL_BF16 "kernels/fma_peak_bf16.inl"
#include "core/foreach_isa.h"

namespace rankone {
namespace {

using Chains = double (*)(int64_t);

Chains chainsOf(FmaKind kind) {
  if (kind == FmaKind::F32) return RANKONE_PICK(fmaChains);
#if defined(__x86_64__)
  if (hasBf16Dot()) return kind == FmaKind::Bf16 ? avx512bf16::bf16Chains : avx512bf16::int8Chains;
#endif
  fail(ErrorKind::Range, "kind: expected 'f32' on this instruction set (%s), got '%s'", isaName(activeIsa()),
       kind == FmaKind::Bf16 ? "bf16" : "int8");
}

}  // namespace

double fmaPeak(FmaKind kind, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Chains chains = chainsOf(kind);
  constexpr int64_t kRounds = 2048;  // some ten microseconds
  const int threads = numThreads();
  ThreadRates rates(threads);
  parallelFor(threads, nullptr, [&](int64_t) {
    rates.meet();
    const auto start = Clock::now();
    const auto end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    double done = 0;
    auto now = start;
    do {
      done += chains(kRounds);
      now = Clock::now();
    } while (now < end);
    rates.add(done, std::chrono::duration<double, std::nano>(now - start).count());
  });
  return rates.total();
}

}  // namespace rankone
