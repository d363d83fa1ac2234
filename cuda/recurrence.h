// The recurrence grid on CUDA: its forms, and what passes between them. Two arithmetics:
//
//   float32   the token forms, one update at a time with the state in registers, and the gradient kernel's FMA form
//   bf16      chunks of 64 updates on the tensor cores, float32 accumulators and states
//
// float32 arithmetic serves float32 arguments, decode, mode 'recurrent' and compute 'f32'; bf16 arithmetic the rest.
#pragma once
#include <cstdint>
#include <vector>

#include "backend.h"
#include "stream.h"

namespace rankone::cuda {

constexpr int kChunkRows = 64;

// Whole tokens in a chunk. With n updates a token a chunk has chunkTokens(n) * n rows in use.
constexpr int64_t chunkTokens(int64_t n) { return kChunkRows / n; }

// One chunk of one sequence. Chunks of a sequence follow each other; so do sequences. An empty sequence has none.
struct Chunk {
  int64_t token;   // its first, counted through the batch
  int32_t tokens;  // 1..chunkTokens(n)
  int32_t sequence;
};

// Where sequences and their chunks begin: on the host, and a copy on the device.
struct Sequences {
  // Sequences of fewer than `leastTokens` get no chunks.
  Sequences(Stream& stream, const RankoneRecurrence& problem, int64_t leastTokens = 0);
  std::vector<int64_t> hostStarts, hostFirstChunks;
  int64_t chunkCount;
  Scratch<int64_t> starts;       // [N+1] tokens
  Scratch<int64_t> firstChunks;  // [N+1]
  Scratch<Chunk> chunks;         // [chunkCount]
};

// Arguments after conversion, activation and padding: what chunk kernels and gradient kernels read. Pointers go into
// the caller's tensors where those will do as they are, else into the scratch that is kept with them.
struct Prepared {
  int32_t dtype;  // of q, k, v: RANKONE_F32 (float32 arithmetic) or RANKONE_BF16
  // Rows of Kp and Vp elements. bf16: multiples of 8, rows 16-byte aligned, zeros behind K and V. f32: K and V
  // themselves.
  int64_t Kp, Vp;
  const void* q;       // [B,T,H,Kp]
  const void* k;       // [B,T*n,H,Kp]
  const void* v;       // [B,T*n,HV,Vp], valueScale applied
  const float* qNorm;  // [B,T,H] 1 / |q|, by which rows of q are still to be multiplied; null without qkL2norm
  const float* kNorm;  // [B,T*n,H]
  const float* g;      // base-2 log decays after activation, by gate: null, [HV], [B,T,HV], [B,T,HV,K]
  const float* beta;   // [B,T*n,HV] after activation; null: additive
  std::vector<Scratch<char>> kept;
};
Prepared prepare(Stream& stream, const RankoneRecurrence& problem, int32_t dtype);

// dO as Prepared has v: [B,T,HV,Vp] of its dtype.
struct OutputGradient {
  const void* data;
  std::vector<Scratch<char>> kept;
};
OutputGradient prepareOutputGradient(Stream& stream, const RankoneRecurrenceBackward& args, const Prepared& prepared);

// What scans leave for the gradients, per chunk c (through the batch) and per row: states in row-major [K][V] and rows
// of V. float32 from the token forms, bf16 from the chunk forms, where they are operands of bf16 products anyhow.
struct Trace {
  int32_t dtype;
  void* states;  // [chunks,HV,K,V]: the forward's S at the chunk's start; the reverse scan's dS at its end
  void*
      rows;  // [B,T*n,HV,V]: the forward's u = beta (v - S^T k), null for additive updates, whose u is v (times
             // valueScale); the reverse scan's w = dS^T k as the update sees it, so that dv = beta w (additive: dv = w)
};

// The forward's trace in memory of savedBytes(problem): what recurrenceForward writes where the caller wants `saved`,
// and the backward reads. Its dtype follows takesChunks.
Trace savedTrace(const Stream& stream, const RankoneRecurrence& problem, void* saved);

// Forward, one update at a time. Reads the raw arguments. `trace` or null.
void recurrenceTokens(Stream& stream, const RankoneRecurrenceForward& args, const Sequences& sequences,
                      const Trace* trace);
// Forward in chunks on the tensor cores. K and V up to 256. args.o null: only the trace is wanted.
void recurrenceChunks(Stream& stream, const RankoneRecurrenceForward& args, const Sequences& sequences,
                      const Prepared& prepared, const Trace* trace);

// dS from the last token to the first, by the arithmetic that the trace's dtype says; writes dInitialState.
void recurrenceReverseTokens(Stream& stream, const RankoneRecurrenceBackward& args, const Sequences& sequences,
                             const Prepared& prepared, const Trace& reverse);
void recurrenceReverseChunks(Stream& stream, const RankoneRecurrenceBackward& args, const Sequences& sequences,
                             const Prepared& prepared, const OutputGradient& dO, const Trace& reverse);

// Gradients of q, k, v, g and beta as the recurrence uses them, from both traces, chunk by chunk.
void recurrenceGradients(Stream& stream, const RankoneRecurrenceBackward& args, const Sequences& sequences,
                         const Prepared& prepared, const OutputGradient& dO, const Trace& forward,
                         const Trace& reverse);
// These, in place, into gradients of the arguments as given; dALog and dDtBias besides.
void recurrenceActivationGradients(Stream& stream, const RankoneRecurrenceBackward& args, const Prepared& prepared);

// normalize: scales [B*T,H] are 1 / (z^T q + 1e-10), and o is S^T q (scale 1) times them. Without sequences every row
// of the batch is one of 1 to 64 tokens. finalZ may be null.
void normalizerScales(Stream& stream, const RankoneRecurrence& problem, const Sequences* sequences, float* scales,
                      float* finalZ);
// Rows [B,T,HV,V] of the sequences that have chunks, times their token's scale: o in place, or dO for the core.
void scaleByDivisors(Stream& stream, const RankoneRecurrence& problem, const Sequences& sequences, const float* scales,
                     RankoneFloats from, void* to, int32_t toDType);
// Adds what flows through the scales to dq and dk, which hold the gradients of S^T q by then (of dO times the scales,
// with scale 1); writes dInitialZ.
void normalizerGradients(Stream& stream, const RankoneRecurrenceBackward& args, const Sequences& sequences,
                         const float* scales);

// Which arithmetic a call takes.
bool takesChunks(const Stream& stream, const RankoneRecurrence& problem);
// Those whose chunks need 128 KiB of shared memory: a device with less computes them in float32.
bool widestChunks(const RankoneRecurrence& problem);

// Entry points of the backend's table.
void recurrenceForward(Stream& stream, const RankoneRecurrenceForward& args);
void recurrenceBackward(Stream& stream, const RankoneRecurrenceBackward& args);
size_t savedBytes(const RankoneRecurrence& problem);

}  // namespace rankone::cuda
