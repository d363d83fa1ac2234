#include "kernels/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/thread_rates.h"

namespace rankone {
constexpr int kSweepBlock = 128;  // floats
}

#define RANKONE_KERNEL "kernels/bandwidth.inl"
#include "core/foreach_isa.h"

namespace rankone {

double bandwidth(Traffic traffic, size_t bytes, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto sweep = traffic == Traffic::Read ? RANKONE_PICK(sweepRead) : RANKONE_PICK(sweepUpdate);
  const double counted = traffic == Traffic::Read ? 1 : 2;
  // Whole blocks of the kernel's, and per look at the clock as many of them as take some microseconds.
  const int64_t floats = static_cast<int64_t>(std::max<size_t>(bytes / sizeof(float) / kSweepBlock, 1)) * kSweepBlock;
  const int64_t stretch = std::min<int64_t>(floats, int64_t{1} << 18);
  const int64_t repeats = std::max<int64_t>((int64_t{1} << 18) / stretch, 1);
  const int threads = numThreads();
  std::vector<AlignedBuffer> sets(static_cast<size_t>(threads));
  for (AlignedBuffer& set : sets) set = AlignedBuffer(static_cast<size_t>(floats) * sizeof(float));

  parallelFor(threads, nullptr, [&](int64_t task) {
    float* const data = sets[static_cast<size_t>(task)].f32();
    std::fill(data, data + floats, 1.0f);
  });

  ThreadRates rates(threads);
  parallelFor(threads, nullptr, [&](int64_t task) {
    float* const data = sets[static_cast<size_t>(task)].f32();
    rates.meet();
    sweep(data, floats);  // into the caches of the thread that this task is on
    const auto start = Clock::now();
    const auto end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    double moved = 0;
    int64_t at = 0;
    auto now = start;
    do {
      const int64_t count = std::min(stretch, floats - at);
      for (int64_t r = 0; r < repeats; ++r) sweep(data + at, count);
      moved += counted * static_cast<double>(sizeof(float)) * static_cast<double>(count * repeats);
      at = at + count == floats ? 0 : at + count;
      now = Clock::now();
    } while (now < end);
    rates.add(moved, std::chrono::duration<double, std::nano>(now - start).count());
  });
  return rates.total();
}

}  // namespace rankone
