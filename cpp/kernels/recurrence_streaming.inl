// Stores of gradients past the caches.
namespace rankone {
namespace RANKONE_ISA_NS {

// Gradients that no cache would hold until they are read.
constexpr int64_t kStreamedFloats = 1 << 19;
inline bool large(const RecurrenceBackward& a) { return a.B * a.T * a.n * a.HV * (a.K + a.V) > kStreamedFloats; }

// Past the caches: a gradient is written once, whole lines at a time, and not read again before the others are there.
// To addresses of whole vectors only; finishStreaming() before anybody reads.
RANKONE_INLINE void streamStore(float* p, Vec x) {
#if RANKONE_LEVEL == 2
  _mm512_stream_ps(p, x);
#elif RANKONE_LEVEL == 1
  _mm256_stream_ps(p, x);
#else
  store(p, x);
#endif
}
RANKONE_INLINE void finishStreaming() {
#if RANKONE_LEVEL >= 1
  _mm_sfence();
#endif
}
inline bool streamable(const float* p, int64_t stride, int64_t width) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Vec) == 0 && stride % kLanes == 0 && width % kLanes == 0;
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
