#include "recurrence_gradients.cuh"

namespace rankone::cuda {
namespace {

template <class A, ChunkGate kGate, bool kDelta>
void launchGradients(Stream& stream, const GradientArgs& args, int64_t chunks) {
  stream.launch("recurrenceGradients", recurrenceChunkGradients<A, kGate, kDelta>,
                dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(args.H)), kGradientThreads,
                sizeof(GradientShared<A, kGate>), args);
}

template <class A, ChunkGate kGate>
void launchUpdate(Stream& stream, const GradientArgs& args, int64_t chunks) {
  if (args.beta) {
    launchGradients<A, kGate, true>(stream, args, chunks);
  } else {
    launchGradients<A, kGate, false>(stream, args, chunks);
  }
}

template <class A>
void launchGate(Stream& stream, const GradientArgs& args, int32_t gate, int64_t chunks) {
  switch (gate) {
    case RANKONE_GATE_NONE: return launchUpdate<A, ChunkGate::NONE>(stream, args, chunks);
    case RANKONE_GATE_CHANNEL: return launchUpdate<A, ChunkGate::CHANNEL>(stream, args, chunks);
    default: return launchUpdate<A, ChunkGate::SCALAR>(stream, args, chunks);
  }
}

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  return true;
}

}  // namespace

void recurrenceGradients(Stream& stream, const RankoneRecurrenceBackward& args, const Sequences& sequences,
                         const Prepared& prepared, const OutputGradient& dO, const Trace& forward,
                         const Trace& reverse) {
  const RankoneRecurrence& p = args.problem;
  const int64_t chunks = sequences.chunkCount;
  const bool f32 = prepared.dtype == RANKONE_F32, headGate = p.gate == RANKONE_GATE_HEAD;
  const int64_t piece = f32 ? 4 : 8;  // elements of 16 bytes

  Scratch<float> gates(stream, headGate && args.dg ? static_cast<size_t>(chunks * p.HV) : 0);

  GradientArgs a = {};
  a.chunks = sequences.chunks.data();
  a.H = static_cast<int32_t>(p.H);
  a.HV = static_cast<int32_t>(p.HV);
  a.K = static_cast<int32_t>(p.K);
  a.V = static_cast<int32_t>(p.V);
  a.n = static_cast<int32_t>(p.n);
  a.kStride = static_cast<int32_t>(prepared.Kp);
  a.vStride = static_cast<int32_t>(prepared.Vp);
  a.uStride = forward.rows ? a.V : a.vStride;
  a.scale = p.scale;
  a.headGate = headGate;
  a.q = prepared.q, a.k = prepared.k, a.v = prepared.v;
  a.qNorm = prepared.qNorm, a.kNorm = prepared.kNorm;
  a.g = prepared.g, a.beta = p.update == RANKONE_DELTA ? prepared.beta : nullptr;
  a.dO = dO.data;
  a.states = forward.states, a.dStates = reverse.states;
  a.u = forward.rows ? forward.rows : prepared.v;
  a.w = reverse.rows;
  a.dq = args.dq, a.dk = args.dk, a.dv = args.dv, a.dbeta = args.dbeta;
  a.dg = headGate ? gates.data() : args.dg;
  a.vectorK = a.kStride % piece == 0 && aligned({a.q, a.k});
  a.vectorV = a.vStride % piece == 0 && aligned({a.v, a.dO});
  a.vectorU = a.uStride % piece == 0 && aligned({a.u});
  a.vectorTraces = p.V % piece == 0 && aligned({a.states, a.dStates, a.w});
  if (f32) {
    launchGate<Float32>(stream, a, p.gate, chunks);
  } else {
    launchGate<Bf16>(stream, a, p.gate, chunks);
  }
  if (headGate && args.dg)
    stream.launch("sumChunkGates", sumChunkGates, static_cast<unsigned>(p.HV), kGradientThreads,
                  sizeof(double) * kGradientThreads, static_cast<const float*>(gates.data()), chunks, p.HV, args.dg);
}

}  // namespace rankone::cuda
