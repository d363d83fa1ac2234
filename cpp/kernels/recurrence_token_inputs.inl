// The arguments of some tokens of some value heads of one sequence as the token form takes them: float32, normalised,
// activated, for all of the heads at once. What the caller's tensors hold as it is needed stays where it is.
#include "kernels/recurrence_token_sweeps.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// `heads` rows of one tensor for each of some tokens (or updates), from element `first` on.
struct HeadBlock {
  FloatView x;
  int64_t width = 0;
  float* stage = nullptr;
  const float* base = nullptr;
  int64_t stride = 0;  // between tokens

  const float* at(int64_t token, int64_t head) const { return base + token * stride + head * width; }
  float* staged(int64_t token, int64_t head) { return stage + token * stride + head * width; }

  void place(int64_t first, int64_t tokenStride, int64_t tokens, int64_t heads) {
    if (!stage) {
      base = static_cast<const float*>(x.data) + first;
      stride = tokenStride;
      return;
    }
    base = stage;
    stride = heads * width;
    for (int64_t t = 0; t < tokens; ++t) widen(x.data, x.dtype, first + t * tokenStride, stride, stage + t * stride);
  }
};

// x <- f(x, index, lanes) over n contiguous values.
template <class F>
RANKONE_INLINE void mapValues(float* x, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    storeUpTo(x + i, f(loadUpTo(x + i, lanes), i, lanes), lanes);
  }
}

// Whether every lane of a comparison holds.
RANKONE_INLINE bool everyLane(IVec c) {
#if RANKONE_LEVEL == 2
  return _mm512_movepi32_mask((__m512i)c) == 0xffff;
#elif RANKONE_LEVEL == 1
  return _mm256_movemask_ps((__m256)c) == 0xff;
#else
  return (c[0] & c[1] & c[2] & c[3]) != 0;
#endif
}

// Log decays into the multipliers of RowDecay. Most gates are slow, and the full exponential is for the others.
RANKONE_INLINE void gainsOf(const float* g, int64_t n, float* gain, int32_t* keep) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    const Vec x = loadUpTo(g + i, lanes), small = expm1Small(x);
    const IVec slow = abs(x) <= 0.5f;
    storeUpTo(gain + i, everyLane(slow) ? small : select(slow, small, exp(x)), lanes);
    storeUpTo(reinterpret_cast<float*>(keep) + i, (Vec)slow, lanes);
  }
}

class TokenInputs {
 public:
  // Capacities: of one prepare().
  TokenInputs(const RecurrenceForward& a, int64_t heads, int64_t tokens)
      : a_(a), capacity_(heads * tokens), scratch_(scratchFloats(a, heads, tokens)) {
    const auto block = [&](const FloatView& x, bool plain, int64_t width, int64_t rows) {
      HeadBlock b;
      b.x = x;
      b.width = width;
      if (x && !(plain && x.dtype == DType::F32)) b.stage = scratch_.take(rows * width);
      return b;
    };
    q_ = block(a.q, !a.qkL2norm, a.K, capacity_);
    k_ = block(a.k, plainKeys(a), a.K, capacity_ * a.n);
    v_ = block(a.v, plainValues(a), a.V, capacity_ * a.n);
    beta_ = block(a.beta, a.betaActivation == BetaActivation::None, 1, capacity_ * a.n);
    g_ = block(a.g, !a.gateActivation, a.gate == GateKind::Channel ? a.K : 1, capacity_);
    if (a.gate == GateKind::Head || a.gate == GateKind::Token) {
      gain_ = scratch_.take(capacity_);
      keep_ = reinterpret_cast<int32_t*>(scratch_.take(capacity_));
    }
    if (a.gateActivation) rate_ = scratch_.take(heads);
  }

  // Tokens [t0, t0 + tokens) of value heads [head0, head0 + heads) of a sequence.
  void prepare(int64_t sequence, int64_t head0, int64_t heads, int64_t t0, int64_t tokens) {
    const int64_t K = a_.K, token = a_.start(sequence) + t0, step = token * a_.n, steps = tokens * a_.n;
    const int64_t keys = a_.keyHead(head0 + heads - 1) + 1 - a_.keyHead(head0);
    head0_ = head0;
    heads_ = heads;
    keyHead0_ = a_.keyHead(head0);
    q_.place((token * a_.H + keyHead0_) * K, a_.H * K, tokens, keys);
    k_.place((step * a_.H + keyHead0_) * K, a_.H * K, steps, keys);
    v_.place((step * a_.HV + head0) * a_.V, a_.HV * a_.V, steps, heads);
    if (a_.keysFromGates) mapValues(k_.stage, steps * keys * K, [](Vec g, int64_t, int) { return keyOfGate(g); });
    for (int64_t s = 0; s < steps && a_.valueScale; ++s)
      for (int64_t h = 0; h < heads; ++h) {
        const float by = a_.valueScale[(step + s) * a_.HV + head0 + h];
        mapValues(v_.staged(s, h), a_.V, [&](Vec x, int64_t, int) { return x * by; });
      }
    if (a_.qkL2norm) {
      normalize(q_, tokens * keys);
      normalize(k_, steps * keys);
    }
    if (a_.beta) {
      beta_.place(step * a_.HV + head0, a_.HV, steps, heads);
      if (a_.betaActivation != BetaActivation::None)
        mapValues(beta_.stage, steps * heads, [&](Vec x, int64_t, int) { return activateBeta(a_.betaActivation, x); });
    }
    if (!a_.g) return;
    if (a_.gate == GateKind::Head)
      g_.place(head0, 0, 1, heads);
    else
      g_.place((token * a_.HV + head0) * g_.width, a_.HV * g_.width, tokens, heads);
    if (a_.gate == GateKind::Head) g_.stride = 0;
    if (a_.gateActivation) activateGates(tokens);
    if (a_.gate == GateKind::Channel) return;
    for (int64_t t = 0; t < tokens; ++t) gainsOf(g_.at(t, 0), heads, gain_ + t * heads, keep_ + t * heads);
  }

  // Tokens and updates counted from the first one prepared.
  const float* q(int64_t t, int64_t head) const { return q_.at(t, a_.keyHead(head) - keyHead0_); }
  const float* k(int64_t s, int64_t head) const { return k_.at(s, a_.keyHead(head) - keyHead0_); }
  const float* v(int64_t s, int64_t head) const { return v_.at(s, head - head0_); }
  const float* beta(int64_t s, int64_t head) const { return a_.beta ? beta_.at(s, head - head0_) : nullptr; }
  int64_t keyStride() const { return k_.stride; }
  int64_t valueStride() const { return v_.stride; }
  int64_t betaStride() const { return beta_.stride; }
  const float* g(int64_t t, int64_t head) const { return g_.at(t, head - head0_); }
  // Of a gate by head or token.
  RowDecay decay(int64_t t, int64_t head) const {
    const int64_t at = t * heads_ + head - head0_;
    return {gain_ + at, keep_ + at};
  }

 private:
  static size_t scratchFloats(const RecurrenceForward& a, int64_t heads, int64_t tokens) {
    const int64_t count = heads * tokens, width = a.gate == GateKind::Channel ? a.K : 1;
    return alignFloats(count * a.K) + alignFloats(count * a.n * a.K) + alignFloats(count * a.n * a.V) +
           alignFloats(count * a.n) + alignFloats(count * width) + 2 * alignFloats(count) + alignFloats(heads);
  }

  void normalize(HeadBlock& rows, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      float* x = rows.stage + i * a_.K;
      const float by = inverseNorm(x, a_.K);
      mapValues(x, a_.K, [&](Vec value, int64_t, int) { return value * by; });
    }
  }

  RANKONE_INLINE Vec activated(Vec x, Vec rate) const {
    const GateActivation& gate = a_.gateActivation;
    return gate.bounded ? sigmoid(x * rate) * gate.lowerBound : softplus(x) * -rate;
  }

  void activateGates(int64_t tokens) {
    const GateActivation& gate = a_.gateActivation;
    // e^aLog, at most the largest float32: infinity would meet zeros of the other factor.
    std::memcpy(rate_, gate.aLog + head0_, static_cast<size_t>(heads_) * sizeof(float));
    mapValues(rate_, heads_,
              [](Vec x, int64_t, int) { return atMost(exp(x), splat(std::numeric_limits<float>::max())); });
    if (a_.gate != GateKind::Channel) {
      const float* bias = gate.dtBias ? gate.dtBias + head0_ : nullptr;
      for (int64_t t = 0; t < tokens; ++t)
        mapValues(g_.staged(t, 0), heads_, [&](Vec x, int64_t i, int lanes) {
          return activated(bias ? x + loadUpTo(bias + i, lanes) : x, loadUpTo(rate_ + i, lanes));
        });
      return;
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < heads_; ++h) {
        const float* bias = gate.dtBias ? gate.dtBias + (head0_ + h) * a_.K : nullptr;
        const Vec rate = splat(rate_[h]);
        mapValues(g_.staged(t, h), a_.K, [&](Vec x, int64_t i, int lanes) {
          return activated(bias ? x + loadUpTo(bias + i, lanes) : x, rate);
        });
      }
  }

  const RecurrenceForward& a_;
  const int64_t capacity_;
  Scratch scratch_;
  HeadBlock q_, k_, v_, beta_, g_;
  float *gain_ = nullptr, *rate_ = nullptr;
  int32_t* keep_ = nullptr;
  int64_t head0_ = 0, heads_ = 0, keyHead0_ = 0;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
