// A stretch of tokens of one head made ready for the passes: which steps share a pass, their folded decays, their keys
// and queries side by side, and what the steps of a pass owe each other. Done once for all column blocks.
//
// Decays are folded: rows of the state stay divided by their cumulative decay e^c, which keys, queries or (for a gate
// per head or token) values and outputs take up instead; |c| > foldLimit at a step triggers a pass with one more
// multiply. Cumulative log decays are kept in twice float32's precision.
#include "kernels/recurrence_scan_passes.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// The part that does not depend on the grid's cell, so that one copy of the code serves all of them.
class ScanRows {
 public:
  static size_t scratchFloats(const RecurrenceForward& a) {
    const bool perChannel = a.gate == GateKind::Channel;
    const size_t ld = roundUp(a.K, kLanes), P = a.packTokens * a.n;
    return ld * ((perChannel ? 2 : 1) * (P + 2) + a.packTokens + (perChannel ? P : 1) + 6) +
           7 * alignFloats(P + kLanes) + 24 * 16;
  }

  // Columns [column0, column1) of the values matter.
  ScanRows(const RecurrenceForward& a, int64_t sequence, int64_t hv, int64_t column0, int64_t column1, float foldLimit,
           Scratch& scratch)
      : a_(a),
        start_(a.start(sequence)),
        hv_(hv),
        perChannel_(a.gate == GateKind::Channel),
        ld_(roundUp(a.K, kLanes)),
        P_(a.packTokens * a.n),
        foldLimit_(foldLimit),
        rows_(a, FloatView(), sequence, hv, a.packTokens, column0, column1) {
    kRead_ = scratch.take((P_ + 2) * ld_) + 2 * ld_;
    kWrite_ = perChannel_ ? scratch.take((P_ + 2) * ld_) + 2 * ld_ : kRead_;
    qRead_ = scratch.take(a.packTokens * ld_);
    rescale_ = scratch.take((perChannel_ ? P_ : 1) * ld_);
    logSum_ = scratch.take(ld_);
    logRest_ = scratch.take(ld_);
    grow_ = scratch.take(ld_);
    shrink_ = scratch.take(ld_);
    partial_ = scratch.take(ld_);
    zeroRow_ = scratch.take(ld_);
    decay_ = scratch.take(P_);
    inverse_ = scratch.take(P_);
    beta_ = scratch.take(P_);
    written_ = a.reverseOf ? scratch.take(P_) : beta_;
    decayLow_ = scratch.take(P_);
    rescaleLog_ = scratch.take(P_);
    rescaleLow_ = scratch.take(P_);
    passes_ = std::make_unique<PassSteps[]>(P_);
    std::memset(zeroRow_, 0, ld_ * sizeof(float));
    for (int s = 0; s < P_; ++s) decay_[s] = inverse_[s] = 1.0f;
    clear();
  }

  // Nothing pending, nothing folded.
  void clear() {
    std::memset(kWrite_ - 2 * ld_, 0, 2 * ld_ * sizeof(float));
    std::memset(logSum_, 0, ld_ * sizeof(float));
    std::memset(logRest_, 0, ld_ * sizeof(float));
    logDecay_ = 0;
  }

  // The keys of the last pass move in front of the pack, where the next one finds its pending writes.
  void keepPending() {
    const PassSteps& last = passes_[count_ - 1];
    std::memmove(kWrite_ - 2 * ld_, last.w, ld_ * sizeof(float));
    std::memcpy(kWrite_ - ld_, last.count == 2 ? last.w + ld_ : zeroRow_, ld_ * sizeof(float));
  }

  // e^c per row of the state.
  const float* unfolding() {
    for (int64_t i = 0; i < ld_; i += kLanes)
      store(partial_ + i,
            perChannel_ ? exp(load(logSum_ + i), load(logRest_ + i)) : splat(static_cast<float>(std::exp(logDecay_))));
    return partial_;
  }

  const PassSteps* begin() const { return passes_.get(); }
  const PassSteps* end() const { return passes_.get() + count_; }
  const float* pending0() const { return kWrite_ - 2 * ld_; }
  const float* pending1() const { return kWrite_ - ld_; }
  // Per step of the pack: e^c of its token (times the output's scale), e^-c, the strength.
  const float* decay() const { return decay_; }
  const float* inverse() const { return inverse_; }
  const float* beta() const { return beta_; }
  // What the values of a step are multiplied with.
  const float* written() const { return written_; }
  HeadRows& rows() { return rows_; }
  int64_t tokenOf(int64_t s) const { return a_.n == 1 ? s : s / a_.n; }

  // The pack's part of what a pass is given.
  void describe(PassBlock& b) const {
    b.K = a_.K;
    b.ld = ld_;
    b.rescaleStride = perChannel_ ? 1 : 0;
  }

 protected:
  bool firstOfToken(int64_t s) const { return a_.n == 1 || s % a_.n == 0; }
  bool lastOfToken(int64_t s) const { return a_.n == 1 || s % a_.n == a_.n - 1; }

  PassSteps& addPass(int s, int steps, bool rescale) {
    PassSteps& x = passes_[count_];
    const int64_t step = s0_ + s;
    x.first = s;
    x.count = steps;
    x.token = tokenOf(s);
    x.reads = 0;
    for (int e = 0; e < steps && a_.o; ++e) x.reads |= lastOfToken(s + e) << e;
    x.rescale = rescale;
    x.rescaleBy = perChannel_ ? rescale_ + count_ * ld_ : rescaleLog_ + count_;
    x.k = kRead_ + s * ld_;
    x.w = kWrite_ + s * ld_;
    x.q = qRead_ + x.token * ld_;
    // The first of them that is read may belong to the token after the first step's.
    if (x.reads && !(x.reads & 1)) x.q = qRead_ + tokenOf(s + 1) * ld_;
    if (count_ == 0) {
      x.pending0 = pending0();
      x.pending1 = pending1();
    } else {
      const PassSteps& before = passes_[count_ - 1];
      x.pending0 = before.w;
      x.pending1 = before.count == 2 ? before.w + ld_ : zeroRow_;
    }
    x.v = rows_.v(step);
    ++count_;
    return x;
  }

  static void setLog(float* high, float* low, int at, double value) {
    high[at] = static_cast<float>(value);
    low[at] = static_cast<float>(value - high[at]);
  }

  // Keys and queries go in as they are (queries times scale): values and outputs carry the decay.
  template <bool kDelta>
  void packScalarRows(PassSteps& x) {
    if constexpr (kDelta) {
      if (x.count == 2 && x.reads == 3) return packPair<true, true, true>(x);
      if (x.count == 2 && x.reads == 2) return packPair<true, false, true>(x);
      if (x.count == 2 && x.reads == 1) return packPair<true, true, false>(x);
      if (x.count == 2) return packPair<true, false, false>(x);
      return x.reads ? packPair<false, true, false>(x) : packPair<false, false, false>(x);
    } else {
      const Vec scale = splat(a_.scale);
      const bool reads = a_.o;
      for (int s = x.first; s < x.first + x.count; ++s) {
        const float *k = rows_.k(s0_ + s), *q = reads ? rows_.q(s0_ + s) : nullptr;
        float *kOut = kWrite_ + s * ld_, *qOut = qRead_ + s * ld_;
        forVectors([=](int64_t i, auto from) __attribute__((always_inline)) {
          store(kOut + i, from(k, i));
          if (reads) store(qOut + i, from(q, i) * scale);
        });
      }
    }
  }

  // f(i, from) for every vector of a row, where from(p, i) reads p's. Beyond K rows read as zero.
  template <class F>
  RANKONE_INLINE void forVectors(F&& f) const {
    const int64_t whole = a_.K / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes)
      f(
          i, [](const float* p, int64_t at) __attribute__((always_inline)) { return load(p + at); });
    if (const int left = static_cast<int>(a_.K - whole))
      f(
          whole, [left](const float* p, int64_t at) __attribute__((always_inline)) { return loadPart(p + at, left); });
  }

  template <bool kTwo, bool kRead0, bool kRead1>
  void packPair(PassSteps& x) {
    const int64_t step = s0_ + x.first;
    const float *ka = rows_.k(step), *kb = kTwo ? rows_.k(step + 1) : nullptr;
    const float* qa = kRead0 ? rows_.q(tokenOf(step)) : nullptr;
    const float* qb = kRead1 ? rows_.q(tokenOf(step + 1)) : nullptr;
    const int64_t ld = ld_;
    float *k = const_cast<float*>(x.k), *q = const_cast<float*>(x.q), *q1 = kRead0 ? q + ld : q;
    const Vec scale = splat(a_.scale);
    Vec q0k0 = zero(), q1k0 = zero(), q1k1 = zero(), k1k0 = zero();
    forVectors([&](int64_t i, auto from) __attribute__((always_inline)) {
      const Vec x0 = from(ka, i);
      store(k + i, x0);
      if constexpr (kRead0) {
        const Vec y0 = from(qa, i) * scale;
        store(q + i, y0);
        q0k0 = fma(y0, x0, q0k0);
      }
      if constexpr (kTwo) {
        const Vec x1 = from(kb, i);
        store(k + ld + i, x1);
        k1k0 = fma(x1, x0, k1k0);
        if constexpr (kRead1) {
          const Vec y1 = from(qb, i) * scale;
          store(q1 + i, y1);
          q1k0 = fma(y1, x0, q1k0);
          q1k1 = fma(y1, x1, q1k1);
        }
      }
    });
    setDots(x, q0k0, q1k0, q1k1, k1k0);
  }

  static void setDots(PassSteps& x, Vec q0k0, Vec q1k0, Vec q1k1, Vec k1k0) {
    float dots[4];
    sums(q0k0, q1k0, q1k1, k1k0, dots);
    x.q0k0 = dots[0];
    x.q1k0 = dots[1];
    x.q1k1 = dots[2];
    x.k1k0 = dots[3];
  }

  // Whether no gate of steps [s, end), whole tokens, can take any channel beyond the limit: as things are, or once the
  // first pass has rescaled. No other pass rescales then, none is cut short, and no gate is looked at one by one. Gates
  // that decay by e^-0.5 a token leave the limit within any pack of 32; a stretch of a few tokens stays inside it.
  static constexpr int64_t kCalmTokens = 8;
  enum class Calm { Yes, Rescaled, No };
  Calm calmOf(int s, int end) {
    const int64_t t0 = tokenOf(s0_ + s), t1 = tokenOf(s0_ + end);
    IVec over{}, always{};
    forVectors([&](int64_t i, auto from) __attribute__((always_inline)) {
      Vec most = zero();
      for (int64_t t = t0; t < t1; ++t) most += abs(from(ChannelGate::logDecays(rows_, t), i));
      over |= ~(abs(load(logSum_ + i)) + most <= foldLimit_);
      always |= ~(most <= foldLimit_);
    });
    return !any(over) ? Calm::Yes : !any(always) ? Calm::Rescaled : Calm::No;
  }

  static bool any(IVec mask) {
    int32_t all = 0;
    for (int i = 0; i < kLanes; ++i) all |= mask[i];
    return all != 0;
  }

  const RecurrenceForward& a_;
  const int64_t start_, hv_;
  const bool perChannel_;
  const int64_t ld_, P_;
  const float foldLimit_;
  HeadRows rows_;
  int64_t s0_ = 0;                       // the pack's first step
  float *kRead_, *kWrite_, *qRead_;      // [P][ld], two rows of pending keys before kWrite
  float* rescale_;                       // [passes][ld] per channel
  float *logSum_, *logRest_;             // [ld] cumulative log decay per channel
  float *grow_, *shrink_;                // [ld] e^c and e^-c of the step before, where tokens have several
  float *partial_, *zeroRow_;            // [ld]
  float *decay_, *inverse_, *decayLow_;  // [P] e^c, e^-c; first the log itself and its low part
  float *rescaleLog_, *rescaleLow_;      // [passes]
  float *beta_, *written_;
  double logDecay_ = 0;  // cumulative log decay of a gate per head or token
  std::unique_ptr<PassSteps[]> passes_;
  int count_ = 0;
};

template <class Gate, class Update>
class ScanPack : public ScanRows {
  static constexpr bool kGated = !std::is_same_v<Gate, NoGate>;
  static constexpr int kMostSteps = Update::kDelta ? kDeltaSteps : kAdditiveSteps;

 public:
  using ScanRows::ScanRows;

  // Steps [s0, s0 + count) of the sequence.
  void pack(int64_t s0, int count) {
    s0_ = s0;
    count_ = 0;
    rows_.prepare(tokenOf(s0), tokenOf(count));
    if constexpr (Update::kDelta)
      for (int s = 0; s < count; ++s) {
        beta_[s] = rows_.beta(s0 + s);
        if (a_.reverseOf) written_[s] = rows_.written(s0 + s);
      }
    if constexpr (Gate::kPerChannel) {
      for (int s = 0; s < count;) {
        const int64_t stretch = kCalmTokens * a_.n;
        const int end = static_cast<int>(count - s < stretch ? count : s + stretch);
        const Calm calm = calmOf(s, end);
        for (bool first = true; s < end; first = false) {
          PassSteps& x =
              calm == Calm::No ? planChannelPass(s, end) : addPass(s, most(s, end), first && calm == Calm::Rescaled);
          packChannelRows(x);
          s += x.count;
        }
      }
    } else {
      planScalarPasses(count);
      for (int x = 0; x < count_; ++x) packScalarRows<Update::kDelta>(passes_[x]);
    }
  }

 private:
  static int most(int s, int count) { return count - s < kMostSteps ? count - s : kMostSteps; }

  // ---- a gate per head or token

  // Steps share a pass unless a gate between them is a reset or too strong to fold.
  void planScalarPasses(int count) {
    const auto gate = [&](int s) -> double {
      return kGated && firstOfToken(s) ? Gate::logDecay(rows_, tokenOf(s0_ + s)) : 0.0f;
    };
    for (int s = 0; s < count;) {
      const double g0 = gate(s), c0 = logDecay_ + g0;
      const bool start = firstOfToken(s), reset = g0 < kResetBelow;
      bool rescale = start && (reset || !(std::fabs(c0) <= foldLimit_));
      double sum = 0;  // of the gates after the first
      int steps = 1;
      for (double after; steps < most(s, count); ++steps, sum = after) {
        const double g = gate(s + steps);
        after = sum + g;
        if (!(std::fabs(g) <= foldLimit_ && std::fabs(after) <= foldLimit_)) break;
        const bool over = !(std::fabs(c0 + after) <= foldLimit_);
        if (over && !start) break;
        rescale |= over;
      }
      if (rescale) setLog(rescaleLog_, rescaleLow_, count_, reset ? -1000.0 : c0);
      logDecay_ = rescale ? 0 : c0;
      for (int e = 0; e < steps && kGated; ++e) {
        if (e) logDecay_ += gate(s + e);
        setLog(decay_, decayLow_, s + e, logDecay_);
      }
      addPass(s, steps, rescale);
      s += steps;
    }
    for (int s = 0; s < count && a_.outputScale; ++s)
      decay_[s] = a_.outputScale[(start_ + tokenOf(s0_ + s)) * a_.H + a_.keyHead(hv_)];
    if (!kGated) return;
    for (int s = 0; s < count; s += kLanes) {
      Vec grow, shrink;
      expBoth(load(decay_ + s), load(decayLow_ + s), grow, shrink);
      store(decay_ + s, grow);
      store(inverse_ + s, shrink);
    }
    for (int x = 0; x < count_; x += kLanes) store(rescaleLog_ + x, exp(load(rescaleLog_ + x), load(rescaleLow_ + x)));
  }

  // ---- a gate per channel

  PassSteps& planChannelPass(int s, int count) {
    const bool start = firstOfToken(s);
    IVec over{};
    if (start) {
      const float* g = Gate::logDecays(rows_, tokenOf(s0_ + s));
      forVectors([&](int64_t i, auto from) __attribute__((always_inline)) {
        const Vec c = load(logSum_ + i) + from(g, i);
        over |= ~(abs(c) <= foldLimit_);
      });
    }
    bool rescale = any(over);
    std::memset(partial_, 0, ld_ * sizeof(float));  // sums of the gates after the first
    int steps = 1;
    for (; steps < most(s, count); ++steps) {
      if (!firstOfToken(s + steps)) continue;
      const float* g0 = start ? Gate::logDecays(rows_, tokenOf(s0_ + s)) : zeroRow_;
      const float* g = Gate::logDecays(rows_, tokenOf(s0_ + s + steps));
      IVec apart{}, beyond{};
      forVectors([&](int64_t i, auto from) __attribute__((always_inline)) {
        const Vec x = from(g, i), sum = load(partial_ + i) + x, c = load(logSum_ + i) + from(g0, i);
        apart |= ~(abs(x) <= foldLimit_) | ~(abs(sum) <= foldLimit_);
        beyond |= ~(abs(c + sum) <= foldLimit_);
        store(partial_ + i, sum);
      });
      if (any(apart) || (any(beyond) && !start)) break;
      rescale |= any(beyond);
    }
    return addPass(s, steps, rescale);
  }

  // Reads see k e^c and q e^c, writes k e^-c.
  void packChannelRows(PassSteps& x) {
    if (a_.n > 1) return packChannels<false>(x);
    packChannels<true>(x);
  }

  // kEach: every step is a token of its own.
  template <bool kEach>
  void packChannels(PassSteps& x) {
    const int64_t step = s0_ + x.first;
    const int steps = x.count;
    const bool rescale = x.rescale;
    const float *g[kMostSteps], *k[kMostSteps], *q[kMostSteps];
    bool gated[kMostSteps], read[kMostSteps];
    float* qOut[kMostSteps];
    for (int e = 0, reads = 0; e < steps; ++e) {
      const int64_t t = tokenOf(step + e);
      gated[e] = kEach || firstOfToken(x.first + e);
      read[e] = x.reads >> e & 1;
      g[e] = Gate::logDecays(rows_, t);
      k[e] = rows_.k(step + e);
      q[e] = rows_.q(t);
      qOut[e] = const_cast<float*>(x.q) + reads * ld_;
      reads += read[e];
    }
    float *kOut = const_cast<float*>(x.k), *wOut = const_cast<float*>(x.w), *mult = const_cast<float*>(x.rescaleBy);
    Vec q0k0 = zero(), q1k0 = zero(), q1k1 = zero(), k1k0 = zero();
    forVectors([&](int64_t i, auto from) __attribute__((always_inline)) {
      Vec c = load(logSum_ + i), rest = load(logRest_ + i), grow, shrink, w0 = zero();
      if (!kEach) {
        grow = load(grow_ + i);
        shrink = load(shrink_ + i);
      }
#pragma GCC unroll 4
      for (int e = 0; e < kMostSteps; ++e) {
        if (e >= steps) break;
        if (kEach || gated[e]) {
          const Vec gate = from(g[e], i);
          addExactly(c, rest, e == 0 && rescale ? atLeast(gate, splat(2 * kResetBelow)) : gate);
          if (e == 0 && rescale) {
            store(mult + i, select(gate < kResetBelow, zero(), exp(c, rest)));
            c = rest = zero();
          }
          expBoth(c, rest, grow, shrink);
        }
        const Vec key = from(k[e], i), keyWrite = key * shrink;
        store(wOut + e * ld_ + i, keyWrite);
        Vec keyRead = zero(), query = zero();
        if constexpr (Update::kDelta) {
          keyRead = key * grow;
          store(kOut + e * ld_ + i, keyRead);
        }
        if (read[e]) {
          query = from(q[e], i) * (grow * a_.scale);
          store(qOut[e] + i, query);
        }
        if constexpr (Update::kDelta) {
          if (e == 0) {
            w0 = keyWrite;
            q0k0 = fma(query, w0, q0k0);
          } else {
            q1k0 = fma(query, w0, q1k0);
            q1k1 = fma(query, keyWrite, q1k1);
            k1k0 = fma(keyRead, w0, k1k0);
          }
        }
      }
      store(logSum_ + i, c);
      store(logRest_ + i, rest);
      if (!kEach) {
        store(grow_ + i, grow);
        store(shrink_ + i, shrink);
      }
    });
    if constexpr (Update::kDelta) setDots(x, q0k0, q1k0, q1k1, k1k0);
  }
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
