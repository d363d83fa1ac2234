// Independent chains of x <- x a + b, all in registers: as many as latency times ports, or as the registers hold.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

#if RANKONE_LEVEL >= 2 || defined(__aarch64__)
constexpr int kChains = 24;
#elif RANKONE_LEVEL == 1
constexpr int kChains = 12;
#else
constexpr int kChains = 14;
#endif

}  // namespace

// Runs `rounds` steps of every chain; returns how many operations that were.
double fmaChains(int64_t rounds) {
  volatile float given[2] = {0.75f, 0.25f};  // the compiler must not know that the chains stay at 1
  const Vec a = splat(given[0]), b = splat(given[1]);
  Vec x[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) x[i] = splat(1.0f + static_cast<float>(i));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) x[i] = fma(x[i], a, b);
  }
  Vec total = zero();
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) total += x[i];
  given[0] = sum(total);
  return 2.0 * kLanes * kChains * static_cast<double>(rounds);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
