// The recurrence grid one update at a time, in place on a row-major state [K,V]: decode, and the plainest form of the
// arithmetic. A step reads the state once for p = S^T k (and S^T q on a token's last step) and writes it in a second
// sweep, S <- D(g) S + k u^T with u = beta (v - p); an additive step needs one sweep. The work is bound by the traffic
// of the state: 3 KV floats per delta step, 2 KV per additive step.
//
// Decays act on the state itself, so a slow one is applied as fma(S, expm1(g), S): e^g rounded to float32 would be off
// by 9e-5 after 8192 tokens of g = -3e-5. Error 1e-7 to 1e-6 against float64.
#include "kernels/recurrence_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int kTokenVecs = 4;  // vectors across that one sweep handles

// Multiplier of a row, as S <- S * gain + (S & keep): for slow decays gain = e^g - 1 and S is kept, else gain = e^g.
struct RowDecay {
  float* gain;    // [K], or one value
  int32_t* keep;  // -1 or 0
};

enum class Decay { None, Uniform, PerRow };

template <Decay kDecay>
RANKONE_INLINE Vec decayed(Vec s, const RowDecay& d, int64_t i) {
  if (kDecay == Decay::None) return s;
  const int64_t at = kDecay == Decay::PerRow ? i : 0;
  return fma(s, splat(d.gain[at]), (Vec)((IVec)s & d.keep[at]));
}

template <bool kPart>
RANKONE_INLINE Vec loadColumns(const float* p, int part) {
  return kPart ? loadPart(p, part) : load(p);
}
template <bool kPart>
RANKONE_INLINE void storeColumns(float* p, Vec x, int part) {
  kPart ? storePart(p, x, part) : store(p, x);
}

// p = D(S)^T k, r = D(S)^T q over kVecsAcross vectors of columns. Two rows go side by side: their sums are independent.
template <int kAcross, bool kPart, bool kRead, Decay kDecay>
RANKONE_INLINE void readRows(const float* S, int64_t K, int64_t V, const float* k, const float* q, const RowDecay& d,
                             int part, Vec* p, Vec* r) {
  Vec p0[kAcross], p1[kAcross], r0[kAcross], r1[kAcross];
#pragma GCC unroll 4
  for (int j = 0; j < kAcross; ++j) p0[j] = p1[j] = r0[j] = r1[j] = zero();
  int64_t i = 0;
  for (; i + 2 <= K; i += 2)
#pragma GCC unroll 4
    for (int j = 0; j < kAcross; ++j) {
      const Vec a = decayed<kDecay>(loadColumns<kPart>(S + i * V + j * kLanes, part), d, i);
      const Vec b = decayed<kDecay>(loadColumns<kPart>(S + (i + 1) * V + j * kLanes, part), d, i + 1);
      p0[j] = fma(splat(k[i]), a, p0[j]);
      p1[j] = fma(splat(k[i + 1]), b, p1[j]);
      if (kRead) r0[j] = fma(splat(q[i]), a, r0[j]);
      if (kRead) r1[j] = fma(splat(q[i + 1]), b, r1[j]);
    }
  if (i < K)
#pragma GCC unroll 4
    for (int j = 0; j < kAcross; ++j) {
      const Vec a = decayed<kDecay>(loadColumns<kPart>(S + i * V + j * kLanes, part), d, i);
      p0[j] = fma(splat(k[i]), a, p0[j]);
      if (kRead) r0[j] = fma(splat(q[i]), a, r0[j]);
    }
#pragma GCC unroll 4
  for (int j = 0; j < kAcross; ++j) {
    p[j] = p0[j] + p1[j];
    r[j] = r0[j] + r1[j];
  }
}

// S <- D(S) + k u^T; with kRead also r = S^T q of the new rows.
template <int kAcross, bool kPart, bool kRead, Decay kDecay>
RANKONE_INLINE void writeRows(float* S, int64_t K, int64_t V, const float* k, const float* q, const RowDecay& d,
                              int part, const Vec* u, Vec* r) {
  Vec sum[kAcross];
#pragma GCC unroll 4
  for (int j = 0; j < kAcross; ++j) sum[j] = zero();
  for (int64_t i = 0; i < K; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kAcross; ++j) {
      float* at = S + i * V + j * kLanes;
      const Vec s = fma(splat(k[i]), u[j], decayed<kDecay>(loadColumns<kPart>(at, part), d, i));
      storeColumns<kPart>(at, s, part);
      if (kRead) sum[j] = fma(splat(q[i]), s, sum[j]);
    }
  for (int j = 0; j < kAcross && kRead; ++j) r[j] = sum[j];
}

struct TokenStep {
  const float *k, *q, *v;
  float* o;  // null: not the token's last step
  float beta, qk, scale;
  RowDecay decay;
};

template <class Update, int kAcross, bool kPart, Decay kDecay>
RANKONE_INLINE void advanceColumns(float* S, int64_t K, int64_t V, const TokenStep& x, int64_t c, int part) {
  Vec p[kAcross], r[kAcross], u[kAcross];
  float* at = S + c;
  if constexpr (Update::kDelta) {
    if (x.o)
      readRows<kAcross, kPart, true, kDecay>(at, K, V, x.k, x.q, x.decay, part, p, r);
    else
      readRows<kAcross, kPart, false, kDecay>(at, K, V, x.k, x.q, x.decay, part, p, r);
    for (int j = 0; j < kAcross; ++j) u[j] = (loadColumns<kPart>(x.v + c + j * kLanes, part) - p[j]) * x.beta;
    writeRows<kAcross, kPart, false, kDecay>(at, K, V, x.k, x.q, x.decay, part, u, r);
    for (int j = 0; j < kAcross && x.o; ++j) r[j] = fma(splat(x.qk), u[j], r[j]);
  } else {
    for (int j = 0; j < kAcross; ++j) u[j] = loadColumns<kPart>(x.v + c + j * kLanes, part);
    writeRows<kAcross, kPart, true, kDecay>(at, K, V, x.k, x.q, x.decay, part, u, r);
  }
  for (int j = 0; j < kAcross && x.o; ++j) storeColumns<kPart>(x.o + c + j * kLanes, r[j] * x.scale, part);
}

template <class Update, Decay kDecay>
__attribute__((noinline)) void advance(float* S, int64_t K, int64_t V, const TokenStep& x) {
  int64_t c = 0;
  for (; c + kTokenVecs * kLanes <= V; c += kTokenVecs * kLanes)
    advanceColumns<Update, kTokenVecs, false, kDecay>(S, K, V, x, c, 0);
  for (; c + kLanes <= V; c += kLanes) advanceColumns<Update, 1, false, kDecay>(S, K, V, x, c, 0);
  if (c < V) advanceColumns<Update, 1, true, kDecay>(S, K, V, x, c, static_cast<int>(V - c));
}

// A reset clears its row before the step, whatever the row held; the step itself then does not decay it.
RANKONE_INLINE void clearRow(float* S, int64_t V, int64_t i) { std::memset(S + i * V, 0, V * sizeof(float)); }

// Log decays of one token into gains.
static void channelDecay(const float* g, int64_t K, int64_t V, float* S, const RowDecay& d) {
  for (int64_t i = 0; i < K; i += kLanes) {
    const int n = static_cast<int>(K - i < kLanes ? K - i : kLanes);
    const Vec x = loadPart(g + i, n);
    const IVec slow = abs(x) <= 0.5f;
    store(d.gain + i, select(slow, expm1Small(x), exp(x)));
    store(reinterpret_cast<float*>(d.keep) + i, (Vec)slow);
  }
  for (int64_t i = 0; i < K; ++i)
    if (g[i] < kResetBelow) clearRow(S, V, i);
}
static void uniformDecay(float g, int64_t K, int64_t V, float* S, const RowDecay& d) {
  const bool slow = std::fabs(g) <= 0.5f;
  d.gain[0] = static_cast<float>(slow ? std::expm1(static_cast<double>(g)) : std::exp(static_cast<double>(g)));
  d.keep[0] = slow ? -1 : 0;
  if (g < kResetBelow) std::memset(S, 0, K * V * sizeof(float));
}

constexpr int64_t kPreparedTokens = 16;

template <class Gate, class Update>
void runTokens(const RecurrenceForward& a, int64_t sequence, int64_t hv, float* S, const RowDecay& decay,
               float* oStage) {
  constexpr bool gated = !std::is_same_v<Gate, NoGate>;
  const int64_t K = a.K, V = a.V, T = a.length(sequence), start = a.start(sequence), h = a.keyHead(hv);
  HeadRows rows(a, FloatView(), sequence, hv, kPreparedTokens, 0, V);
  for (int64_t s = 0; s < T * a.n; ++s) {
    const int64_t t = s / a.n;
    const bool first = s % a.n == 0, last = s % a.n == a.n - 1;
    if (first && t % kPreparedTokens == 0) rows.prepare(t, T - t < kPreparedTokens ? T - t : kPreparedTokens);
    const int64_t out = ((start + t) * a.HV + hv) * V;
    TokenStep x;
    x.k = rows.k(s);
    x.q = rows.q(t);
    x.v = rows.v(s);
    x.o = !last || !a.o ? nullptr : oStage ? oStage : static_cast<float*>(a.o) + out;
    x.beta = Update::kDelta ? rows.beta(s) : 1;
    x.scale = a.outputScale ? a.scale * a.outputScale[(start + t) * a.H + h] : a.scale;
    x.decay = decay;
    x.qk = 0;
    if (Update::kDelta && x.o) {
      Vec dot = zero();
      int64_t i = 0;
      for (; i + kLanes <= K; i += kLanes) dot = fma(load(x.q + i), load(x.k + i), dot);
      if (i < K) dot = fma(loadPart(x.q + i, static_cast<int>(K - i)), loadPart(x.k + i, static_cast<int>(K - i)), dot);
      x.qk = sum(dot);
    }
    if (!gated || !first) {
      advance<Update, Decay::None>(S, K, V, x);
    } else if constexpr (Gate::kPerChannel) {
      channelDecay(Gate::logDecays(rows, t), K, V, S, decay);
      advance<Update, Decay::PerRow>(S, K, V, x);
    } else {
      uniformDecay(Gate::logDecay(rows, t), K, V, S, decay);
      advance<Update, Decay::Uniform>(S, K, V, x);
    }
    if (x.o && oStage) narrow(oStage, V, a.o, a.oDType, out);
    if (a.cancel && s % 64 == 63 && a.cancel->load(std::memory_order_relaxed)) return;
  }
}

void recurrenceTokens(const RecurrenceForward& a) {
  const int64_t heads = a.N * a.HV, size = a.K * a.V, ld = roundUp(a.K, kLanes);
  if (heads == 0) return;
  // Enough heads to a task that handing it out costs little beside it; fixed by shape.
  const int64_t work = size * (a.B * a.T * a.n / a.N), chunk = work > 0 ? 1 + 131072 / work : heads;
  const bool stages = a.o && a.oDType != DType::F32;
  parallelFor((heads + chunk - 1) / chunk, a.cancel, [&](int64_t task) {
    Scratch scratch(alignFloats(size) + 2 * alignFloats(ld) + alignFloats(a.V));
    RowDecay decay{scratch.take(ld), reinterpret_cast<int32_t*>(scratch.take(ld))};
    float *spare = scratch.take(size), *oStage = stages ? scratch.take(a.V) : nullptr;
    for (int64_t head = task * chunk; head < heads && head < (task + 1) * chunk; ++head) {
      const int64_t sequence = head / a.HV, hv = head % a.HV, at = a.stateOffset(sequence, hv);
      if (!a.tokenForm(sequence)) continue;
      float* S = a.finalState ? a.finalState + at : spare;
      if (!a.initialState)
        std::memset(S, 0, size * sizeof(float));
      else if (a.initialState != a.finalState)
        std::memcpy(S, a.initialState + at, size * sizeof(float));
      withCell(a, [&](auto gate, auto update) {
        runTokens<decltype(gate), decltype(update)>(a, sequence, hv, S, decay, oStage);
      });
    }
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
