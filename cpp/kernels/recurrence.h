// The recurrence grid on the CPU. One family of kernels, three forms: the scan (prefill), the token form (decode) and
// the backward; gate and update rule are compile-time policies, a paper is never a kernel.
#pragma once
#include <cstdint>
#include <memory>

#include "core/parallel.h"
#include "core/tensor.h"
#include "ops/presets.h"

namespace rankone {

enum class BetaActivation : uint8_t { None, Sigmoid, Sigmoid2 };

// A raw gate's activation: -e^aLog softplus(g + dtBias), or with a lower bound L, L sigmoid(e^aLog (g + dtBias)).
struct GateActivation {
  const float* aLog = nullptr;    // [HV], null: g is the log decay itself
  const float* dtBias = nullptr;  // [HV], or [HV,K] for a gate per channel, or null
  float lowerBound = 0;
  bool bounded = false;
  explicit operator bool() const { return aLog != nullptr; }
};

struct RecurrenceProblem {
  int64_t B, T, H, HV, K, V;
  int64_t n;  // updates per token; 1 except for Householder products
  int64_t N;  // sequences: B, or as many as are packed into the one row
  UpdateRule update;
  GateKind gate;
  float scale;
  FloatView q;              // [B,T,H,K]; here and in v and dO, null: zeros
  FloatView k;              // [B,T*n,H,K]
  FloatView v;              // [B,T*n,HV,V]
  FloatView g;              // by gate: null, [HV], [B,T,HV], [B,T,HV,K]
  FloatView beta;           // [B,T*n,HV], delta only
  IndexView cuSeqlens;      // [N+1] tokens, checked; null: every row of the batch is a sequence
  const float* valueScale;  // [B*T*n,HV] rows of v are multiplied by it, or null (Mamba-2: the step size)
  bool keysFromGates;       // k holds log gates, and the keys are 1 - e^k (HGRN2)
  bool qkL2norm;            // q and k rows are divided by their norm, sqrt(sum x^2 + 1e-6)
  GateActivation gateActivation;
  BetaActivation betaActivation;
  const float* initialState;  // [N,HV,K,V] or null
  IndexView stateRows;        // [N] rows of initialState and finalState, checked; null: 0..N-1
  const float* outputScale;   // [B*T,H] multiplies the rows of o (additive, no gate), or null
  // Not null: a scan's state is the gradient of that problem's, from zeros behind the last token back to before the
  // first. v is the gradient of o, [B,T,HV,V], all else is taken from there; the delta rule has an update more a token.
  const RecurrenceProblem* reverseOf;
  const CancelFlag* cancel;

  // A sequence's first token, counted through the batch, and its length.
  int64_t start(int64_t sequence) const { return cuSeqlens ? cuSeqlens[sequence] : sequence * T; }
  int64_t length(int64_t sequence) const {
    const int64_t tokens = cuSeqlens ? cuSeqlens[sequence + 1] - cuSeqlens[sequence] : T;
    return reverseOf && tokens > 0 ? tokens + 1 : tokens;  // the last one lets the first one's decay through
  }
  int64_t keyHead(int64_t hv) const { return hv / (HV / H); }
  int64_t stateRow(int64_t sequence) const { return stateRows ? stateRows[sequence] : sequence; }
  int64_t stateOffset(int64_t sequence, int64_t hv) const { return (stateRow(sequence) * HV + hv) * K * V; }
};

// Geometry of what a forward saves: per value head the state at every chunk start, per step a residual. It depends on
// the shape and the instruction set. Sequences follow each other, each with one chunk in reserve.
struct SavedGeometry {
  int64_t chunkTokens;
  int64_t stateFloats;     // one chunk's state of one value head
  int64_t residualFloats;  // one step's residual of one value head

  int64_t chunks(int64_t tokens) const { return (tokens + chunkTokens - 1) / chunkTokens; }
  int64_t allStates(const RecurrenceProblem& p) const { return p.HV * (p.B * p.T / chunkTokens + p.N) * stateFloats; }
  int64_t stateAt(const RecurrenceProblem& p, int64_t sequence, int64_t hv) const {
    return (p.HV * (p.start(sequence) / chunkTokens + sequence) + hv * chunks(p.length(sequence))) * stateFloats;
  }
  int64_t allResiduals(const RecurrenceProblem& p) const { return p.HV * p.B * p.T * p.n * residualFloats; }
  int64_t residualAt(const RecurrenceProblem& p, int64_t sequence, int64_t hv) const {
    return (p.start(sequence) * p.HV + hv * p.length(sequence)) * p.n * residualFloats;
  }
};
SavedGeometry savedGeometry(int64_t n, int64_t K, int64_t V);

struct RecurrenceForward : RecurrenceProblem {
  void* o;  // [B,T,HV,V], null: not wanted
  DType oDType;
  float* finalState;   // [N,HV,K,V] or null; may be initialState itself
  int64_t packTokens;  // tokens whose keys and queries are packed at a time by the scan
  int64_t tokenSteps;  // sequences of at most this many updates run one update at a time, the others as a scan
  float* savedStates;  // null, or as SavedGeometry lays them out
  float* savedResiduals;
  bool savedOneHead;  // they hold one sequence and head only

  bool tokenForm(int64_t sequence) const { return length(sequence) * n <= tokenSteps; }
};

struct RecurrenceBackward : RecurrenceProblem {
  FloatView dO;              // [B,T,HV,V]
  const float* dFinalState;  // [N,HV,K,V] or null
  const float* savedStates;  // from a forward of the same problem, or null: recompute
  const float* savedResiduals;
  float* dq;             // [B,T,H,K]
  float* dk;             // [B,T*n,H,K]
  float* dv;             // [B,T*n,HV,V]
  float* dg;             // as g, or null
  float* dbeta;          // [B,T*n,HV], or null
  float* dInitialState;  // [N,HV,K,V], or null
  float* dALog;          // [HV], or null
  float* dDtBias;        // as dtBias, or null
};

// Forward in blocks of packed tokens, two updates a pass over the state.
void recurrenceScan(const RecurrenceForward& args);
// The same for one sequence and value head, columns [column0, column1) of V; both count in steps of 32.
void recurrenceScanColumns(const RecurrenceForward& args, int64_t sequence, int64_t hv, int64_t column0,
                           int64_t column1);
// Forward in chunks with bf16 products, for the sequences that are no token form. Only where hasBf16Dot().
void recurrenceChunksBf16(const RecurrenceForward& args);
// Forward one update at a time, in place on a row-major state: short sequences, and the plainest order of operations.
void recurrenceTokens(const RecurrenceForward& args);
// Gradients with respect to q, k, g and beta as the recurrence uses them, after normalisation and activations.
void recurrenceBackward(const RecurrenceBackward& args);
// These gradients, in place, into those of the arguments as they were given; dALog and dDtBias besides.
void recurrenceActivationGradients(const RecurrenceBackward& args);

// The running sum of keys that `normalize` divides by: z_t = z_(t-1) + k_t, o_t = S^T q / (z_t^T q + 1e-10).
struct Normalizer {
  const float* initialZ = nullptr;  // [N,H,K], rows as stateRows says, or null
  float* finalZ = nullptr;          // [N,H,K] or null; may be initialZ itself
  float* scales = nullptr;          // [B*T,H] 1 / (z^T q + 1e-10)
};
void normalizerScales(const RecurrenceProblem& p, const Normalizer& z);
// Adds what flows through the scales to dq and dk, which hold the gradients of S^T q by then.
void normalizerGradients(const RecurrenceBackward& args, const Normalizer& z, const float* dFinalZ, float* dInitialZ);

}  // namespace rankone
