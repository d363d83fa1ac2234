// Sweeps over a stretch of floats, a multiple of kSweepBlock: eight vectors at a time, nothing that waits for the last.
namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int kStreams = 8;
static_assert(kSweepBlock % (kStreams * kLanes) == 0);

void sweepRead(float* data, int64_t count) {
  Vec total[kStreams];
#pragma GCC unroll 8
  for (int i = 0; i < kStreams; ++i) total[i] = zero();
  for (int64_t at = 0; at < count; at += kStreams * kLanes) {
#pragma GCC unroll 8
    for (int i = 0; i < kStreams; ++i) total[i] = total[i] + load(data + at + i * kLanes);
  }
  Vec all = zero();
#pragma GCC unroll 8
  for (int i = 0; i < kStreams; ++i) all += total[i];
  volatile float used = sum(all);
  (void)used;
}

void sweepUpdate(float* data, int64_t count) {
  volatile float given = 1.0f;  // the compiler must not know that nothing changes
  const Vec factor = splat(given);
  for (int64_t at = 0; at < count; at += kStreams * kLanes) {
#pragma GCC unroll 8
    for (int i = 0; i < kStreams; ++i) {
      float* const p = data + at + i * kLanes;
      store(p, load(p) * factor);
    }
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
