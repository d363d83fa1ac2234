// The backward's order of steps: the forward's trace (recomputed, or from `saved`), the reverse scan's, gradients from
// both, and gradients through what is fused to the recurrence.
#include "recurrence.h"

namespace rankone::cuda {
namespace {

constexpr size_t kAlignment = 256;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t chunksOf(const RankoneRecurrence& p) {
  const int64_t tokens = chunkTokens(p.n);
  int64_t chunks = 0;
  for (int64_t s = 0; s < p.N; ++s) {
    const int64_t length = p.cuSeqlens ? p.cuSeqlens[s + 1] - p.cuSeqlens[s] : p.T;
    chunks += (length + tokens - 1) / tokens;
  }
  return chunks;
}

struct TraceBytes {
  size_t states, rows;
};
TraceBytes traceBytes(const RankoneRecurrence& p, int32_t dtype, bool rows) {
  const size_t element = dtype == RANKONE_F32 ? 4 : 2;
  return {aligned(static_cast<size_t>(chunksOf(p) * p.HV * p.K * p.V) * element),
          rows ? aligned(static_cast<size_t>(p.B * p.T * p.n * p.HV * p.V) * element) : 0};
}

Trace traceIn(void* memory, const TraceBytes& bytes, int32_t dtype) {
  char* at = static_cast<char*>(memory);
  return {dtype, at, bytes.rows ? at + bytes.states : nullptr};
}

int32_t arithmeticOf(const Stream& stream, const RankoneRecurrence& p) {
  return takesChunks(stream, p) ? RANKONE_BF16 : RANKONE_F32;
}

}  // namespace

size_t savedBytes(const RankoneRecurrence& p) {
  const bool halves = p.q.dtype != RANKONE_F32 || p.compute == RANKONE_COMPUTE_BF16;
  // Enough for any device.
  const int32_t dtype =
      halves && p.compute != RANKONE_COMPUTE_F32 && p.mode != RANKONE_MODE_RECURRENT && !widestChunks(p) ? RANKONE_BF16
                                                                                                         : RANKONE_F32;
  const TraceBytes bytes = traceBytes(p, dtype, p.update == RANKONE_DELTA);
  return bytes.states + bytes.rows;
}

Trace savedTrace(const Stream& stream, const RankoneRecurrence& p, void* saved) {
  const int32_t dtype = arithmeticOf(stream, p);
  return traceIn(saved, traceBytes(p, dtype, p.update == RANKONE_DELTA), dtype);
}

void recurrenceBackward(Stream& stream, const RankoneRecurrenceBackward& given) {
  RankoneRecurrenceBackward args = given;
  RankoneRecurrence& p = args.problem;
  const bool chunked = takesChunks(stream, p);
  const int32_t dtype = arithmeticOf(stream, p);
  const Sequences sequences(stream, p);
  const Prepared prepared = prepare(stream, p, dtype);

  // Beneath the normalizer is a recurrence of scale 1, of whose o and dO it takes the divisors' part.
  Scratch<float> scales, scaled;
  if (p.normalize) {
    scales = Scratch<float>(stream, static_cast<size_t>(p.B * p.T * p.H));
    normalizerScales(stream, p, &sequences, scales.data(), nullptr);
    scaled = Scratch<float>(stream, static_cast<size_t>(p.B * p.T * p.HV * p.V));
    scaleByDivisors(stream, p, sequences, scales.data(), args.dO, scaled.data(), RANKONE_F32);
    args.dO = {scaled.data(), RANKONE_F32};
    p.scale = 1;
  }

  Scratch<char> recomputed;
  Trace forward = savedTrace(stream, p, const_cast<void*>(args.saved));
  if (!args.saved) {
    recomputed = Scratch<char>(stream, savedBytes(p));
    forward = savedTrace(stream, p, recomputed.data());
    RankoneRecurrenceForward again = {};
    again.problem = p;
    if (chunked) {
      recurrenceChunks(stream, again, sequences, prepared, &forward);
    } else {
      recurrenceTokens(stream, again, sequences, &forward);
    }
  }

  const OutputGradient dO = prepareOutputGradient(stream, args, prepared);
  const TraceBytes bytes = traceBytes(p, dtype, true);
  const Scratch<char> reversed(stream, bytes.states + bytes.rows);
  const Trace reverse = traceIn(reversed.data(), bytes, dtype);
  if (chunked) {
    recurrenceReverseChunks(stream, args, sequences, prepared, dO, reverse);
  } else {
    recurrenceReverseTokens(stream, args, sequences, prepared, reverse);
  }
  recurrenceGradients(stream, args, sequences, prepared, dO, forward, reverse);
  if (p.normalize) normalizerGradients(stream, args, sequences, scales.data());
  recurrenceActivationGradients(stream, args, prepared);
}

}  // namespace rankone::cuda
