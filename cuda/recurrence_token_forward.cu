#include "recurrence_token.h"
#include "recurrence_token_forward.cuh"

namespace rankone::cuda {

TokenArgs tokenArgs(const RankoneRecurrence& p, const Sequences* sequences) {
  TokenArgs a{};
  a.T = p.T;
  a.H = p.H;
  a.HV = p.HV;
  a.K = static_cast<int32_t>(p.K);
  a.V = static_cast<int32_t>(p.V);
  a.n = static_cast<int32_t>(p.n);
  a.gate = p.gate;
  if (sequences) {
    a.starts = p.cuSeqlens ? sequences->starts.data() : nullptr;
    a.firstChunks = sequences->firstChunks.data();
  }
  a.q = p.q.data;
  a.k = p.k.data;
  a.dtype = p.q.dtype;
  a.g = p.g.data;
  a.gDType = p.g.dtype;
  a.beta = p.beta.data;
  a.betaDType = p.beta.dtype;
  a.aLog = p.aLog;
  a.dtBias = p.dtBias;
  a.lowerBound = p.lowerBound;
  a.scale = p.scale;
  a.betaActivation = p.betaActivation;
  a.keysFromGates = p.keysFromGates;
  a.qkL2norm = p.qkL2norm;
  a.chunkTokens = static_cast<int32_t>(chunkTokens(p.n));
  return a;
}

}  // namespace rankone::cuda
