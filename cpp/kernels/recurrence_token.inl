// The recurrence grid one token at a time, in place on a row-major state [K,V]: decode, and the plainest form of the
// arithmetic. A delta token reads the state once, for S^T k of its updates and S^T q, and writes it in a second sweep,
//
//     u_j = beta_j (v_j - (D(S)^T k_j + sum over l < j of (k_l . k_j) u_l)),    S <- D(S) + sum of k_j u_j^T
//     o = scale (D(S)^T q + sum of (k_j . q) u_j)
//
// up to kMostSteps updates at a time; an additive token needs one sweep. The work is bound by the traffic of the state:
// 3 KV floats per delta token, 2 KV per additive token, a third of the first from the nearest cache.
//
// Decays act on the state itself, so a slow one is applied as fma(S, expm1(g), S): e^g rounded to float32 would be off
// by 9e-5 after 8192 tokens of g = -3e-5. What only reads takes keys and queries that are decayed the same way. Error
// 1e-7 to 1e-6 against float64.
#include "kernels/recurrence_token_inputs.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

RANKONE_INLINE float dotOf(const float* x, const float* y, int64_t n) {
  Vec dot = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) dot = fma(load(x + i), load(y + i), dot);
  if (i < n) dot = fma(loadPart(x + i, static_cast<int>(n - i)), loadPart(y + i, static_cast<int>(n - i)), dot);
  return sum(dot);
}

// f(index, lanes) for the vectors that hold n values.
template <class F>
RANKONE_INLINE void overColumns(int64_t n, F&& f) {
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) f(c, kLanes);
  if (c < n) f(c, static_cast<int>(n - c));
}

// One token of one value head.
struct TokenStep {
  const float *k, *q, *v;  // k and v: of the first update
  const float* beta;
  int64_t kStride, vStride, betaStride, updates;
  float* o;  // null: not wanted
  float scale;
  RowDecay decay;
};

// Scratch of one task.
struct TokenScratch {
  float *decayedRows, *sums, *u;  // [kMostSums][K], [kMostSums][V] and [kMostSteps][V], in whole vectors
  float* gain;                    // [K]
  int32_t* keep;

  static size_t floats(int64_t ldK, int64_t ldV) {
    return alignFloats(kMostSums * ldK) + 2 * alignFloats(ldK) + alignFloats(kMostSums * ldV) +
           alignFloats(kMostSteps * ldV);
  }
  TokenScratch(Scratch& from, int64_t ldK, int64_t ldV)
      : decayedRows(from.take(kMostSums * ldK)),
        sums(from.take(kMostSums * ldV)),
        u(from.take(kMostSteps * ldV)),
        gain(from.take(ldK)),
        keep(reinterpret_cast<int32_t*>(from.take(ldK))) {}
};

template <Decay kDecay>
void additiveToken(float* S, int64_t K, int64_t V, const TokenStep& x, const TokenScratch& w) {
  const float* k = x.k;
  overColumns(V, [&](int64_t c, int lanes) { store(w.u + c, loadUpTo(x.v + c, lanes)); });
  overBlocks(V, [&](int64_t c, auto across, auto partly, int part) {
    writeColumns<1, kDecay, true, decltype(across)::value, decltype(partly)::value>(S + c, K, V, &k, w.u + c, 0,
                                                                                    x.decay, x.q, w.sums + c, part);
  });
  if (x.o) overColumns(V, [&](int64_t c, int lanes) { storeUpTo(x.o + c, load(w.sums + c) * x.scale, lanes); });
}

// Updates [first, first + kSteps) of a token; with kLast its output.
template <Decay kDecay, int kSteps, bool kLast>
void deltaUpdates(float* S, int64_t K, int64_t V, const TokenStep& x, int64_t first, const TokenScratch& w) {
  constexpr int kSums = kSteps + kLast;
  const int64_t ldK = roundUp(K, kLanes), ld = roundUp(V, kLanes);
  const float *k[kSteps], *rows[kSums], *read[kSums];
  for (int j = 0; j < kSteps; ++j) rows[j] = k[j] = x.k + (first + j) * x.kStride;
  if (kLast) rows[kSteps] = x.q;
  for (int m = 0; m < kSums; ++m) {
    if constexpr (kDecay == Decay::None) {
      read[m] = rows[m];
      continue;
    }
    float* to = w.decayedRows + m * ldK;
    read[m] = to;
    overColumns(K, [&](int64_t i, int lanes) {
      const bool perRow = kDecay == Decay::PerRow;
      const Vec gain = perRow ? load(x.decay.gain + i) : splat(x.decay.gain[0]);
      const IVec keep =
          perRow ? (IVec)load(reinterpret_cast<const float*>(x.decay.keep) + i) : IVec{} + x.decay.keep[0];
      store(to + i, decayed(loadUpTo(rows[m] + i, lanes), gain, keep));
    });
  }
  float dots[kSteps][kSums];  // [j][m]: k_j . rows[m], m > j
#pragma GCC unroll 4
  for (int j = 0; j < kSteps; ++j)
#pragma GCC unroll 4
    for (int m = j + 1; m < kSums; ++m) dots[j][m] = dotOf(k[j], rows[m], K);
  overBlocks(V, [&](int64_t c0, auto across, auto partly, int part) {
    constexpr int kAcross = decltype(across)::value;
    constexpr bool kPart = decltype(partly)::value;
    readColumns<kSums, kAcross, kPart>(S + c0, K, V, read, w.sums, ld, part);
    overColumns(kPart ? part : kAcross * kLanes, [&](int64_t c, int lanes) {
      Vec u[kSteps];
#pragma GCC unroll 4
      for (int j = 0; j < kSteps; ++j) {
        Vec p = load(w.sums + j * ld + c);
#pragma GCC unroll 4
        for (int l = 0; l < j; ++l) p = fma(splat(dots[l][j]), u[l], p);
        u[j] = (loadUpTo(x.v + (first + j) * x.vStride + c0 + c, lanes) - p) * x.beta[(first + j) * x.betaStride];
        store(w.u + j * ld + c, u[j]);
      }
      if (!kLast) return;
      Vec r = load(w.sums + kSteps * ld + c);
#pragma GCC unroll 4
      for (int j = 0; j < kSteps; ++j) r = fma(splat(dots[j][kSums - 1]), u[j], r);
      storeUpTo(x.o + c0 + c, r * x.scale, lanes);
    });
    writeColumns<kSteps, kDecay, false, kAcross, kPart>(S + c0, K, V, k, w.u, ld, x.decay, nullptr, nullptr, part);
  });
}

template <Decay kDecay, int kSteps>
void deltaGroup(float* S, int64_t K, int64_t V, const TokenStep& x, int64_t first, const TokenScratch& w) {
  if (first + kSteps == x.updates && x.o)
    deltaUpdates<kDecay, kSteps, true>(S, K, V, x, first, w);
  else
    deltaUpdates<kDecay, kSteps, false>(S, K, V, x, first, w);
}

template <Decay kDecay>
void deltaToken(float* S, int64_t K, int64_t V, const TokenStep& x, const TokenScratch& w) {
  int64_t first = 0;
  const auto group = [&](auto decay) {
    constexpr Decay d = decltype(decay)::value;
    const int64_t left = x.updates - first, steps = left == 4 ? 2 : left < kMostSteps ? left : kMostSteps;
    if (steps == 1) deltaGroup<d, 1>(S, K, V, x, first, w);
    if (steps == 2) deltaGroup<d, 2>(S, K, V, x, first, w);
    if (steps == 3) deltaGroup<d, 3>(S, K, V, x, first, w);
    first += steps;
  };
  group(std::integral_constant<Decay, kDecay>{});
  while (first < x.updates) group(std::integral_constant<Decay, Decay::None>{});
}

using Advance = void (*)(float*, int64_t, int64_t, const TokenStep&, const TokenScratch&);

template <Decay kDecay>
Advance advanceOf(UpdateRule update) {
  return update == UpdateRule::Delta ? deltaToken<kDecay> : additiveToken<kDecay>;
}
inline Advance advanceOf(const RecurrenceProblem& p) {
  switch (p.gate) {
    case GateKind::None: return advanceOf<Decay::None>(p.update);
    case GateKind::Channel: return advanceOf<Decay::PerRow>(p.update);
    default: return advanceOf<Decay::Uniform>(p.update);
  }
}

// A reset clears what it decays, whatever that held; the decay then multiplies zeros.
RANKONE_INLINE void clearResets(const float* g, int64_t count, int64_t rowFloats, float* S) {
  for (int64_t i = 0; i < count; ++i)
    if (g[i] < kResetBelow) std::memset(S + i * rowFloats, 0, static_cast<size_t>(rowFloats) * sizeof(float));
}

// Value heads to a block, and tokens to a block of one head.
constexpr int64_t kBlockHeads = 32, kBlockTokens = 16;

inline void runHead(const RecurrenceForward& a, const TokenInputs& in, int64_t sequence, int64_t hv, int64_t t0,
                    int64_t tokens, float* S, const TokenScratch& w, float* oStage) {
  const int64_t K = a.K, V = a.V, start = a.start(sequence) + t0;
  const Advance advance = advanceOf(a);
  TokenStep x;
  x.updates = a.n;
  x.kStride = in.keyStride();
  x.vStride = in.valueStride();
  x.betaStride = in.betaStride();
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t out = ((start + t) * a.HV + hv) * V;
    x.q = in.q(t, hv);
    x.k = in.k(t * a.n, hv);
    x.v = in.v(t * a.n, hv);
    x.beta = in.beta(t * a.n, hv);
    x.o = !a.o ? nullptr : oStage ? oStage : static_cast<float*>(a.o) + out;
    x.scale = a.outputScale ? a.scale * a.outputScale[(start + t) * a.H + a.keyHead(hv)] : a.scale;
    if (a.gate == GateKind::Channel) {
      gainsOf(in.g(t, hv), K, w.gain, w.keep);
      clearResets(in.g(t, hv), K, V, S);
      x.decay = {w.gain, w.keep};
    } else if (a.gate != GateKind::None) {
      clearResets(in.g(t, hv), 1, K * V, S);
      x.decay = in.decay(t, hv);
    }
    advance(S, K, V, x, w);
    if (x.o && oStage) narrow(oStage, V, a.o, a.oDType, out);
    if (a.cancel && t % 16 == 15 && a.cancel->load(std::memory_order_relaxed)) return;
  }
}

// The state of a value head before its first token.
inline void startState(const RecurrenceForward& a, int64_t at, float* S) {
  const size_t bytes = static_cast<size_t>(a.K * a.V) * sizeof(float);
  if (!a.initialState)
    std::memset(S, 0, bytes);
  else if (a.initialState + at != S)
    std::memcpy(S, a.initialState + at, bytes);
}

inline void runHeads(const RecurrenceForward& a, int64_t head, int64_t end) {
  const int64_t size = a.K * a.V, ldK = roundUp(a.K, kLanes), ldV = roundUp(a.V, kLanes);
  int64_t longest = 0;
  for (int64_t i = head / a.HV; i <= (end - 1) / a.HV; ++i)
    if (a.tokenForm(i) && a.length(i) > longest) longest = a.length(i);
  const int64_t most = longest < kBlockTokens ? longest : kBlockTokens;
  const int64_t blockHeads = longest > kBlockTokens ? 1 : end - head < kBlockHeads ? end - head : kBlockHeads;
  const bool stages = a.o && a.oDType != DType::F32;
  TokenInputs in(a, blockHeads, most);
  Scratch scratch(TokenScratch::floats(ldK, ldV) + alignFloats(stages ? ldV : 0) +
                  alignFloats(a.finalState ? 0 : size));
  const TokenScratch w(scratch, ldK, ldV);
  float *oStage = stages ? scratch.take(ldV) : nullptr, *spare = a.finalState ? nullptr : scratch.take(size);
  while (head < end) {
    const int64_t sequence = head / a.HV, first = head % a.HV, T = a.length(sequence);
    int64_t heads = end - head < blockHeads ? end - head : blockHeads;
    if (heads > a.HV - first) heads = a.HV - first;
    head += heads;
    if (!a.tokenForm(sequence)) continue;
    // A block takes several heads where it takes their every token.
    for (int64_t t0 = 0; t0 == 0 || t0 < T; t0 += kBlockTokens) {
      const int64_t tokens = T - t0 < kBlockTokens ? T - t0 : kBlockTokens;
      if (tokens > 0) in.prepare(sequence, first, heads, t0, tokens);
      for (int64_t hv = first; hv < first + heads; ++hv) {
        const int64_t at = a.stateOffset(sequence, hv);
        float* S = a.finalState ? a.finalState + at : spare;
        if (t0 == 0) startState(a, at, S);
        runHead(a, in, sequence, hv, t0, tokens, S, w, oStage);
      }
      if (a.cancel && a.cancel->load(std::memory_order_relaxed)) return;
    }
  }
}

constexpr int64_t kOneTask = 1 << 20;  // elements of the state times updates: 4 MB once over, 50 us or more

void recurrenceTokens(const RecurrenceForward& a) {
  const int64_t heads = a.N * a.HV;
  if (heads == 0) return;
  // Enough heads to a task that handing it out costs little beside it, and all of them to one where even waking a
  // thread would cost more than it gains; fixed by shape.
  const int64_t work = a.K * a.V * (a.B * a.T * a.n / a.N);
  const int64_t chunk = work > 0 && heads * work > kOneTask ? 1 + 131072 / work : heads;
  parallelFor((heads + chunk - 1) / chunk, a.cancel, [&](int64_t task) {
    const int64_t first = task * chunk, end = heads - first < chunk ? heads : first + chunk;
    runHeads(a, first, end);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
