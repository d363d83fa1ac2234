#include "kernels/fma_peak.h"

#include <atomic>
#include <chrono>

#define RANKONE_KERNEL "kernels/fma_peak.inl"
#include "core/foreach_isa.h"

namespace rankone {

double fmaPeak(double seconds) {
  using Clock = std::chrono::steady_clock;
  double (*const chains)(int64_t) = RANKONE_PICK(fmaChains);
  constexpr int64_t kRounds = 2048;  // some ten microseconds
  std::atomic<double> flops{0};
  const auto start = Clock::now();
  const auto end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  // A task that no thread of its own came for is found late, and adds nothing.
  parallelFor(numThreads(), nullptr, [&](int64_t) {
    double done = 0;
    while (Clock::now() < end) done += chains(kRounds);
    double total = flops.load();
    while (!flops.compare_exchange_weak(total, total + done)) {
    }
  });
  return flops.load() / std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

}  // namespace rankone
