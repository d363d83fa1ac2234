// The scan over chunks: the second of two kernels of the forward on the tensor cores.
#pragma once
#include "recurrence_prep.h"

namespace rankone::cuda {

// Chunks of one sequence that one CTA takes one after the other, for one value head and some columns of V.
struct Segment {
  int64_t chunk;  // its first, of the batch
  int64_t slot;   // of that chunk in the workspace
  int32_t chunks;
  int32_t sequence;
  int32_t from, to;  // states: a slot of `carry`, or one of these
  enum : int32_t {
    ARGUMENT = -1,  // initialState or zeros; finalState or nowhere
    ZEROS = -2,
    IDENTITY = -3,
    NOWHERE = -4
  };
};

struct ScanArgs {
  const uint16_t* q;  // [tokens,H,Kp]
  const uint16_t* k;  // [tokens n,H,Kp]
  const uint16_t* v;  // [tokens n,HV,Vp], null: zeros
  const char* workspace;
  PrepLayout layout;
  const Chunk* chunks;        // of the batch
  const Segment* segments;    // a CTA for each, and value head, and block of columns
  const float* initialState;  // [rows,HV,K,V] or null
  float* finalState;          // or null
  const int32_t* stateRows;   // [sequences] or null
  float* carry;               // [slots,HV,K,V]
  void* o;                    // [tokens,HV,V] or null
  int32_t oDType;
  uint16_t* traceStates;  // [chunks,HV,K,V] or null; what a chunk's first token clears may be zeros
  uint16_t* traceRows;    // [tokens n,HV,V] or null
  int32_t H, HV, K, Kp, V, Vp;
  int32_t stages;  // chunks in shared memory, 1 or 2; chosen by the launcher
};

// Of gates of a token, of a head or none, and of a channel.
void scanChunks(Stream& stream, ScanArgs args, bool delta, int64_t segments);
void scanChannelChunks(Stream& stream, ScanArgs args, bool delta, int64_t segments);

// Shared memory that a CTA may have.
size_t sharedBytesOf(const RankoneDeviceInfo& info);

}  // namespace rankone::cuda
