// Which form a forward takes. What decides is the call's options and dtype, and of each sequence its own length: never
// the rest of the batch.
#include "recurrence_scan.h"
#include "recurrence_token.h"

namespace rankone::cuda {
namespace {

constexpr int64_t kMostSize = 256, kMostUpdates = 8;  // of K and V, and of a token
// Sequences of up to so many updates go one update at a time: the state's traffic is what they cost.
constexpr int64_t kTokenSteps = 16;

void expectSupported(const RankoneRecurrence& p) {
  constexpr int kInvalidValue = 1;  // cudaErrorInvalidValue
  if (p.K > kMostSize || p.V > kMostSize) throw Failure(kInvalidValue, "K and V of more than 256 are not supported");
  if (p.n > kMostUpdates) throw Failure(kInvalidValue, "more than 8 updates a token are not supported");
}

int64_t lengthOf(const RankoneRecurrence& p, int64_t sequence) {
  return p.cuSeqlens ? p.cuSeqlens[sequence + 1] - p.cuSeqlens[sequence] : p.T;
}

// The sequences that go one update at a time though the call takes chunks.
std::vector<int32_t> shortSequences(const RankoneRecurrence& p) {
  std::vector<int32_t> list;
  for (int64_t i = 0; i < p.N && p.mode == RANKONE_MODE_AUTO; ++i)
    if (lengthOf(p, i) * p.n <= kTokenSteps) list.push_back(static_cast<int32_t>(i));
  return list;
}

// What normalize divides by; leaves a call of scale 1.
Scratch<float> divide(Stream& stream, RankoneRecurrenceForward& args) {
  RankoneRecurrence& p = args.problem;
  Scratch<float> scales;
  if (!p.normalize) return scales;
  scales = Scratch<float>(stream, static_cast<size_t>(p.B * p.T * p.H));
  if (!p.cuSeqlens && p.T > 0 && p.T <= kChunkRows) {
    normalizerScales(stream, p, nullptr, scales.data(), args.finalZ);
  } else {
    const Sequences sequences(stream, p);
    normalizerScales(stream, p, &sequences, scales.data(), args.finalZ);
  }
  p.scale = 1;
  return scales;
}

void forwardTokens(Stream& stream, const RankoneRecurrenceForward& args, const float* scales) {
  const RankoneRecurrence& p = args.problem;
  // A decode call of a batch wants nothing but its one launch.
  if (!p.cuSeqlens && !args.saved) return runTokens(stream, args, {nullptr, nullptr, p.N, scales, nullptr});
  const Sequences sequences(stream, p);
  const Trace trace = savedTrace(stream, p, args.saved);
  runTokens(stream, args, {&sequences, nullptr, p.N, scales, args.saved ? &trace : nullptr});
}

}  // namespace

bool widestChunks(const RankoneRecurrence& p) {
  return p.update == RANKONE_DELTA && p.gate == RANKONE_GATE_CHANNEL && p.K > 128;
}

bool takesChunks(const Stream& stream, const RankoneRecurrence& p) {
  constexpr size_t kWidest = 128 << 10;
  if (widestChunks(p) && sharedBytesOf(stream.info()) < kWidest) return false;
  if (p.compute == RANKONE_COMPUTE_F32 || p.mode == RANKONE_MODE_RECURRENT) return false;
  return p.compute == RANKONE_COMPUTE_BF16 || p.q.dtype != RANKONE_F32;
}

void recurrenceForward(Stream& stream, const RankoneRecurrenceForward& given) {
  RankoneRecurrenceForward args = given;
  const RankoneRecurrence& p = args.problem;
  expectSupported(p);
  const Scratch<float> scales = divide(stream, args);
  if (!takesChunks(stream, p)) return forwardTokens(stream, args, scales.data());

  // What is saved has one dtype: all sequences take one form.
  const std::vector<int32_t> few = args.saved ? std::vector<int32_t>() : shortSequences(p);
  if (p.N > 0 && static_cast<int64_t>(few.size()) == p.N) return forwardTokens(stream, args, scales.data());
  const Sequences sequences(stream, p, few.empty() ? 0 : kTokenSteps / p.n + 1);
  const Prepared prepared = prepare(stream, p, RANKONE_BF16);
  const Trace trace = savedTrace(stream, p, args.saved);
  recurrenceChunks(stream, args, sequences, prepared, args.saved ? &trace : nullptr);
  if (p.normalize) scaleByDivisors(stream, p, sequences, scales.data(), {args.o, p.q.dtype}, args.o, p.q.dtype);
  // These come last: to the chunks they were sequences without tokens.
  if (few.empty()) return;
  const Scratch<int32_t> list(stream, few);
  runTokens(stream, args, {&sequences, list.data(), static_cast<int64_t>(few.size()), scales.data(), nullptr});
}

}  // namespace rankone::cuda
