#include "kernels/fma_peak.h"

#include <atomic>
#include <chrono>

#include "core/error.h"

#define RANKONE_KERNEL "kernels/fma_peak.inl"
#define RANKONE_KERNEL_BF16 "kernels/fma_peak_bf16.inl"
#include "core/foreach_isa.h"

namespace rankone {
namespace {

using Chains = double (*)(int64_t);

Chains chainsOf(FmaKind kind) {
  if (kind == FmaKind::F32) return RANKONE_PICK(fmaChains);
#if defined(__x86_64__)
  if (hasBf16Dot()) return avx512bf16::bf16Chains;
#endif
  fail(ErrorKind::Range, "kind: expected 'f32' on this instruction set (%s), got 'bf16'", isaName(activeIsa()));
}

}  // namespace

double fmaPeak(FmaKind kind, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Chains chains = chainsOf(kind);
  constexpr int64_t kRounds = 2048;  // some ten microseconds
  std::atomic<double> flops{0};
  const auto start = Clock::now();
  const auto end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  // A task that no thread of its own came for is found late, and adds next to nothing.
  parallelFor(numThreads(), nullptr, [&](int64_t) {
    double done = 0;
    do done += chains(kRounds);
    while (Clock::now() < end);
    double total = flops.load();
    while (!flops.compare_exchange_weak(total, total + done)) {
    }
  });
  return flops.load() / std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

}  // namespace rankone
