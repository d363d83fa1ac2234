/* The interface between the engine and its CUDA backend, the shared library rankone_cuda.so: a table of C functions
 * behind a version number. The engine opens the library on demand; neither links the other.
 *
 * Pointers are to device memory of the stream's device unless a comment says host. Functions that take a stream put
 * their work into it and return; they are called by one thread at a time for each stream. They check nothing that the
 * engine's specs check. Each returns 0, or the CUDA error's number with its reason in `error`. */
#ifndef RANKONE_CUDA_BACKEND_H
#define RANKONE_CUDA_BACKEND_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RANKONE_CUDA_VERSION 1

typedef struct RankoneError {
  int32_t code;
  char reason[252];
} RankoneError;

typedef struct RankoneStream RankoneStream;
typedef struct RankoneEvent RankoneEvent;
typedef struct RankoneGraph RankoneGraph;

typedef struct RankoneDeviceInfo {
  char name[128];
  int32_t major, minor; /* compute capability */
  int32_t multiprocessors;
  int32_t emulated;                /* 1: blocks run on the processor, for tests */
  uint64_t memoryBytes, freeBytes; /* all of them free where this process has not used the device yet */
  uint64_t l2Bytes;
} RankoneDeviceInfo;

enum { RANKONE_F32, RANKONE_BF16, RANKONE_F16 }; /* dtypes */

typedef struct RankoneFloats { /* a contiguous tensor of floats; data null: absent */
  const void* data;
  int32_t dtype;
} RankoneFloats;

/* ---- the recurrence grid: S <- D(g) S, n updates, o = scale S^T q */

enum { RANKONE_ADDITIVE, RANKONE_DELTA };                                                /* update */
enum { RANKONE_GATE_NONE, RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL }; /* gate */
enum { RANKONE_MODE_AUTO, RANKONE_MODE_RECURRENT, RANKONE_MODE_CHUNK };
enum { RANKONE_COMPUTE_DEFAULT, RANKONE_COMPUTE_F32, RANKONE_COMPUTE_BF16 };
enum { RANKONE_BETA_NONE, RANKONE_BETA_SIGMOID, RANKONE_BETA_SIGMOID2 };

typedef struct RankoneRecurrence {
  int64_t B, T, H, HV, K, V;
  int64_t n; /* updates per token */
  int64_t N; /* sequences: B, or as many as cuSeqlens names */
  int32_t update, gate, mode, compute;
  float scale;
  int32_t normalize;        /* additive without gate: o is divided by z^T q + 1e-10 */
  RankoneFloats q;          /* [B,T,H,K] */
  RankoneFloats k;          /* [B,T*n,H,K] */
  RankoneFloats v;          /* [B,T*n,HV,V] */
  RankoneFloats g;          /* by gate: absent, [HV], [B,T,HV], [B,T,HV,K] */
  RankoneFloats beta;       /* [B,T*n,HV], delta only */
  const int64_t* cuSeqlens; /* host, [N+1] tokens, or null: every row of the batch is a sequence */
  const float* valueScale;  /* [B*T*n,HV] rows of v are multiplied by it, or null (Mamba-2) */
  int32_t keysFromGates;    /* k is the log gates, and the keys are 1 - e^k (HGRN2) */
  int32_t qkL2norm;
  const float* aLog;   /* [HV], null: g is the log decay itself; else -e^aLog softplus(g + dtBias) */
  const float* dtBias; /* [HV], or [HV,K] for a gate per channel, or null */
  float lowerBound;    /* below 0: g = lowerBound sigmoid(e^aLog (g + dtBias)); 0: none */
  int32_t betaActivation;
  const float* initialState; /* [N,HV,K,V], with stateRows [slots,HV,K,V]; or null */
  const int32_t* stateRows;  /* [N] rows of the states that the sequences own, in device memory; null: 0..N-1 */
  const float* initialZ;     /* [N,H,K], rows as stateRows says; or null */
} RankoneRecurrence;

typedef struct RankoneRecurrenceForward {
  RankoneRecurrence problem;
  void* o;           /* [B,T,HV,V] in q's dtype */
  float* finalState; /* as initialState, and may be the same memory; or null */
  float* finalZ;
  void* saved; /* savedBytes() of it, written for the backward; or null */
} RankoneRecurrenceForward;

typedef struct RankoneRecurrenceBackward {
  RankoneRecurrence problem;
  RankoneFloats dO;         /* [B,T,HV,V] */
  const float* dFinalState; /* [N,HV,K,V] or null */
  const float* dFinalZ;     /* [N,H,K] or null */
  const void* saved;        /* from a forward of the same problem, or null: it is recomputed */
  /* As q, k, v; with respect to the arguments as given: dk through keysFromGates too. But dv is that of the rows that
   * the recurrence uses, after valueScale. */
  float *dq, *dk, *dv;
  float *dg, *dbeta;    /* as g and beta, or null */
  float* dInitialState; /* [N,HV,K,V] or null */
  float* dInitialZ;
  float *dALog, *dDtBias; /* as aLog and dtBias, or null */
} RankoneRecurrenceBackward;

/* ---- the fused LoRA product: see cpp/kernels/lora.h */

enum {
  RANKONE_WEIGHT_F32,
  RANKONE_WEIGHT_BF16,
  RANKONE_WEIGHT_F16,
  RANKONE_WEIGHT_INT8,
  RANKONE_WEIGHT_Q8,
  RANKONE_WEIGHT_NF4,
  RANKONE_WEIGHT_Q4
};

/* W [out, in], row-major, each row at a multiple of 16 bytes, zeros behind its end.
 * f32, bf16, f16: the values. int8, q8: signed bytes. nf4, q4: two codes a byte, the even column in the low half;
 * a code c of nf4 stands for its table's value, one of q4 for c - 8. Values are codes times their scale. */
typedef struct RankoneWeight {
  int32_t format;
  int64_t out, in;
  int64_t rowBytes;
  int64_t block; /* columns of a scale; 0: none, or int8's one for the row */
  const void* codes;
  const float* scales; /* [out, ceil(in / block)], int8: [out] */
} RankoneWeight;

enum { RANKONE_ACT_NONE, RANKONE_ACT_RELU, RANKONE_ACT_GELU, RANKONE_ACT_SILU, RANKONE_ACT_SELF_TOP_K };

typedef struct RankoneAdapter {
  int64_t rank;    /* rows of A in use */
  int64_t midRank; /* columns of B */
  float scale;
  RankoneFloats a; /* [rank, in], rows aStride elements apart (a multiple of 8); absent: aIndex, t_i = x[aIndex[i]] */
  RankoneFloats b; /* [out, midRank], rows bStride elements apart (a multiple of 8); absent: bIndex */
  int64_t aStride, bStride;
  const int32_t *aIndex, *bIndex;
  const int32_t* bOrder;    /* ranks by rising bIndex; of equal ones the first first */
  const float* mid;         /* [midRank, rank] or null */
  const float* midDiagonal; /* [rank] or null */
  int32_t activation;
  int64_t activeRanks;    /* of self top k */
  const float* rankBias;  /* [rank] or null */
  const float* baseScale; /* [out] or null */
  const float* outBias;   /* [out] or null */
} RankoneAdapter;

typedef struct RankoneLora {
  RankoneFloats x; /* [rows, in] */
  int64_t rows, in, out;
  const RankoneWeight* base; /* host; null: none, or */
  int32_t identity;          /* W = 1 */
  int32_t compute;
  RankoneFloats bias;             /* [out] */
  const RankoneAdapter* adapters; /* host, [adapterCount], by ascending id */
  int64_t adapterCount;
  const int32_t* slots; /* host, [rows, perRow] into adapters, -1: none; null: no adapters */
  int64_t perRow;
  const float* gates; /* [rows, perRow]; null: ones */
  double dropout;
  uint64_t seed;
  float* t; /* [rows, perRow, tRanks]: the forward writes it, zeros where there is no rank;
               the backward reads it; or null */
  int64_t tRanks;
} RankoneLora;

typedef struct RankoneLoraForward {
  RankoneLora problem;
  void* y; /* [rows, out] in x's dtype */
} RankoneLoraForward;

/* Null: not wanted. All are written (not added to). */
typedef struct RankoneAdapterGradient {
  float* a; /* [rank, in] */
  float* b; /* [out, bRanks], columns beyond midRank are zeros */
  int64_t bRanks;
  float* mid; /* [midRank, midRanks], or [rank] for a diagonal */
  int64_t midRanks;
  float *rankBias, *scale, *baseScale, *outBias;
} RankoneAdapterGradient;

typedef struct RankoneLoraBackward {
  RankoneLora problem;
  RankoneFloats dY; /* [rows, out] */
  void* dx;         /* [rows, in] in dxDType, or null */
  int32_t dxDType;
  float* dBias;                           /* [out] or null */
  float* dGates;                          /* [rows, perRow] or null; zeros where a row has no adapter */
  const RankoneAdapterGradient* adapters; /* host, [adapterCount], or null */
} RankoneLoraBackward;

/* ---- the parts of Mamba-2 around its recurrence: see cpp/kernels/mamba2.h */

typedef struct RankoneMamba2 {
  int64_t rows, HV, P; /* rows = B*T */
  RankoneFloats x;     /* [rows,HV,P] */
  RankoneFloats dt;    /* [rows,HV], as given */
  const float* A;      /* [HV] */
  const float* D;      /* [HV] or null */
  const float* dtBias; /* [HV] or null */
  int32_t softplus;
  float low, high; /* dt is clamped into this range last */
} RankoneMamba2;

typedef struct RankoneMamba2Gradients {
  const float* step; /* [rows,HV], as mamba2Prepare wrote it */
  RankoneFloats dY;  /* [rows,HV,P] */
  const float* dV;   /* [rows,HV,P], of the rows after valueScale */
  const float* dG;   /* [rows,HV] */
  float* dx;         /* [rows,HV,P] */
  float* ddt;        /* [rows,HV] */
  float* dA;         /* [HV] */
  float* dD;         /* [HV] or null */
  float* dDtBias;    /* [HV] or null */
} RankoneMamba2Gradients;

/* ---- the table */

enum { RANKONE_PEAK_MMA, RANKONE_PEAK_WGMMA, RANKONE_PEAK_FMA };

typedef struct RankoneCuda {
  uint32_t version; /* RANKONE_CUDA_VERSION */
  uint32_t bytes;   /* of this struct */
  int (*deviceCount)(int32_t* count, RankoneError* error);
  int (*deviceInfo)(int32_t device, RankoneDeviceInfo* info, RankoneError* error);

  int (*openStream)(int32_t device, RankoneStream** stream, RankoneError* error);
  void (*closeStream)(RankoneStream* stream); /* waits, and frees all that was allocated in it */
  int (*synchronize)(RankoneStream* stream, RankoneError* error);
  int (*record)(RankoneStream* stream, RankoneEvent** event, RankoneError* error);
  int (*wait)(RankoneEvent* event, RankoneError* error); /* the calling thread; any thread may */
  /* Between two events of one stream that have been waited for. */
  int (*elapsed)(RankoneEvent* start, RankoneEvent* end, float* milliseconds, RankoneError* error);
  void (*releaseEvent)(RankoneEvent* event);

  /* What is put into the stream between these two is recorded, not done. Launching the graph does it, with the same
   * pointers and the host data of the recording. Waiting, downloading and freeing are not possible between them. A
   * graph belongs to its stream and goes before it; memory that it uses must stay allocated. */
  int (*beginCapture)(RankoneStream* stream, RankoneError* error);
  int (*endCapture)(RankoneStream* stream, RankoneGraph** graph, RankoneError* error);
  int (*launchGraph)(RankoneGraph* graph, RankoneError* error);
  void (*releaseGraph)(RankoneGraph* graph); /* waits for the stream */

  /* A caching allocator in stream order: what is released serves later work of the same stream at once. Any thread may
   * release, and ask for `memory`. */
  int (*allocate)(RankoneStream* stream, size_t size, void** memory, RankoneError* error);
  void (*release)(RankoneStream* stream, void* memory);
  void (*memory)(RankoneStream* stream, uint64_t* used, uint64_t* reserved);
  int (*trim)(RankoneStream* stream, RankoneError* error); /* gives what is cached back to the device */
  /* The host memory is free again when these return; download waits for the stream. */
  int (*upload)(RankoneStream* stream, void* to, const void* hostFrom, size_t size, RankoneError* error);
  int (*download)(RankoneStream* stream, void* hostTo, const void* from, size_t size, RankoneError* error);
  int (*copy)(RankoneStream* stream, void* to, const void* from, size_t size, RankoneError* error);
  int (*fill)(RankoneStream* stream, void* to, int byte, size_t size, RankoneError* error);
  /* Conversions between float dtypes, rounded to nearest even. */
  int (*convert)(RankoneStream* stream, void* to, int32_t toDType, const void* from, int32_t fromDType, int64_t count,
                 RankoneError* error);

  /* Arithmetic on operands at rest, of one of the kinds above, the device's limit for benchmarks. *operations: how many
   * are done. wgmma is there on compute capability 9.0 alone. */
  int (*peak)(RankoneStream* stream, int32_t kind, int64_t iterations, double* operations, RankoneError* error);

  size_t (*savedBytes)(const RankoneRecurrence* problem);
  int (*recurrenceForward)(RankoneStream* stream, const RankoneRecurrenceForward* args, RankoneError* error);
  int (*recurrenceBackward)(RankoneStream* stream, const RankoneRecurrenceBackward* args, RankoneError* error);
  int (*loraForward)(RankoneStream* stream, const RankoneLoraForward* args, RankoneError* error);
  int (*loraBackward)(RankoneStream* stream, const RankoneLoraBackward* args, RankoneError* error);

  /* step = clamp(softplus(dt + dtBias)), g = step A, both [rows,HV]. */
  int (*mamba2Prepare)(RankoneStream* stream, const RankoneMamba2* args, float* step, float* g, RankoneError* error);
  /* y = o + D x in yDType, rounded once; y may be o itself where the dtypes are equal. */
  int (*mamba2Skip)(RankoneStream* stream, const RankoneMamba2* args, RankoneFloats o, void* y, int32_t yDType,
                    RankoneError* error);
  int (*mamba2Gradients)(RankoneStream* stream, const RankoneMamba2* args, const RankoneMamba2Gradients* gradients,
                         RankoneError* error);
  int (*add)(RankoneStream* stream, float* to, const float* from, int64_t count, RankoneError* error); /* to += from */
} RankoneCuda;

/* The library's only export. Null for a version it does not know. */
const RankoneCuda* rankoneCuda(uint32_t version);

#ifdef __cplusplus
}
#endif
#endif
