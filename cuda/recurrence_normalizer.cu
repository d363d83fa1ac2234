#include "recurrence_normalizer.cuh"

namespace rankone::cuda {
namespace {

NormalizerArgs normalizerArgs(const RankoneRecurrence& p, const Sequences* sequences) {
  NormalizerArgs a{};
  a.T = p.T;
  a.H = p.H;
  a.K = static_cast<int32_t>(p.K);
  a.q = p.q.data;
  a.k = p.k.data;
  a.dtype = p.q.dtype;
  a.keysFromGates = p.keysFromGates;
  a.qkL2norm = p.qkL2norm;
  a.stateRows = p.stateRows;
  a.initialZ = p.initialZ;
  a.chunkCount = p.N;
  if (!sequences) return a;
  a.chunks = sequences->chunks.data();
  a.chunkCount = sequences->chunkCount;
  a.firstChunks = sequences->firstChunks.data();
  return a;
}

void launchChunks(Stream& stream, const char* name, void (*kernel)(NormalizerArgs), const NormalizerArgs& a) {
  constexpr int64_t kWarps = kNormalizerThreads / 32;
  stream.launch(name, kernel, static_cast<unsigned>((a.chunkCount * a.H + kWarps - 1) / kWarps), kNormalizerThreads, 0,
                a);
}

void launchPrefix(Stream& stream, const RankoneRecurrence& p, const NormalizerArgs& a, int32_t reverse) {
  const int64_t channels = p.N * p.H * p.K;
  stream.launch("normalizerPrefix", normalizerPrefix,
                static_cast<unsigned>((channels + kNormalizerThreads - 1) / kNormalizerThreads), kNormalizerThreads, 0,
                a, channels, reverse);
}

Scratch<double> sumsOf(Stream& stream, const NormalizerArgs& a) {
  return {stream, static_cast<size_t>(a.chunkCount * a.H * a.K)};
}

}  // namespace

void normalizerScales(Stream& stream, const RankoneRecurrence& p, const Sequences* sequences, float* scales,
                      float* finalZ) {
  NormalizerArgs a = normalizerArgs(p, sequences);
  a.scales = scales;
  a.finalZ = finalZ;
  if (!sequences) return launchChunks(stream, "normalizerDivisors", normalizerDivisors, a);
  const Scratch<double> sums = sumsOf(stream, a);
  a.sums = sums.data();
  launchChunks(stream, "normalizerSums", normalizerSums, a);
  launchPrefix(stream, p, a, false);
  launchChunks(stream, "normalizerDivisors", normalizerDivisors, a);
}

void scaleByDivisors(Stream& stream, const RankoneRecurrence& p, const Sequences& sequences, const float* scales,
                     RankoneFloats from, void* to, int32_t toDType) {
  const ScaleArgs a{
      from.data, from.dtype, toDType, to, scales, p.H, p.HV, static_cast<int32_t>(p.V), sequences.chunks.data()};
  stream.launch("scaleRows", scaleRows, static_cast<unsigned>(sequences.chunkCount * p.HV), kNormalizerThreads, 0, a);
}

void normalizerGradients(Stream& stream, const RankoneRecurrenceBackward& args, const Sequences& sequences,
                         const float* scales) {
  const RankoneRecurrence& p = args.problem;
  NormalizerArgs a = normalizerArgs(p, &sequences);
  const Scratch<double> sums = sumsOf(stream, a), reverseSums = sumsOf(stream, a);
  const Scratch<double> dDivisors(stream, static_cast<size_t>(p.B * p.T * p.H));
  a.sums = sums.data();
  a.reverseSums = reverseSums.data();
  a.dDivisors = dDivisors.data();
  a.scales = const_cast<float*>(scales);
  a.dq = args.dq;
  a.dk = args.dk;
  a.dFinalZ = args.dFinalZ;
  a.dInitialZ = args.dInitialZ;
  launchChunks(stream, "normalizerSums", normalizerSums, a);
  launchPrefix(stream, p, a, false);
  launchChunks(stream, "normalizerQueryGradients", normalizerQueryGradients, a);
  launchPrefix(stream, p, a, true);
  launchChunks(stream, "normalizerKeyGradients", normalizerKeyGradients, a);
}

}  // namespace rankone::cuda
