// Forward of the recurrence grid, S <- D(g) S, S <- (I - beta k k^T) S + beta k v^T (or S + k v^T), o = scale S^T q, in
// one sweep over the state per two updates.
//
// The state lives in column blocks that stay in L1. A pass over a block's rows applies the two pending rank-one writes
// of the pair before and takes the two reads k^T S, q^T S of each step of this pair: one load and one store of a state
// element for twelve flops. What the steps of a pair owe each other (q.k, k.k) is computed once per head while packing.
// Decays are folded: rows stay divided by their cumulative decay e^c, which keys, queries or (for a gate per head or
// token) values and outputs take up instead; |c| > kFoldLimit triggers a pass with one more multiply.
// Accumulation float32, cumulative log decays in twice that; error 1e-7 to 1e-6 against float64.
// Sources: Katharopoulos et al. 2020 (linear attention), Yang et al. 2023 (GLA), Schlag et al. 2021 and Yang et al.
// 2024 (delta rule, gated delta rule), Siems et al. 2025 (Householder products).
#include "kernels/recurrence_passes.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// One or two steps that share a pass, as every column block sees them. Without a second step its rows are zero.
struct Pair {
  int first;
  bool two, rescale, read0, read1;  // read: the step is its token's last, and outputs are wanted
  const float *k0, *k1, *w0, *w1;   // packed keys for reads and for writes
  float *q0, *q1;                   // packed queries, where read
  const float *v0, *v1;             // [V]
  float *o0, *o1;                   // [V], where read
  float dots[4];                    // what the steps owe each other: q0.k0, q1.k0, q1.k1, k1.k0
};

// One sequence and value head, column blocks [block0, block1). Shared by the forward and by the backward's
// recomputation.
template <class Gate, class Update>
class HeadScan {
 public:
  static size_t scratchFloats(const RecurrenceForward& a, int64_t blocks) {
    const size_t ld = roundUp(a.K, kLanes), P = a.packTokens * a.n;
    return alignFloats(blocks * a.K * kBlock) + alignFloats(blocks * 2 * kBlock) + alignFloats(blocks * kLanes) +
           ld * ((Gate::kPerChannel ? 2 : 1) * (P + 2) + a.packTokens + (Gate::kPerChannel ? P : 1) + 4) +
           2 * alignFloats(P * kBlock) + 6 * alignFloats(P) + alignFloats(ld + kBlock) +
           (stagesOutput(a) ? alignFloats(a.packTokens * blocks * kBlock) : 0) + 32 * 16;
  }

  HeadScan(const RecurrenceForward& a, int64_t sequence, int64_t hv, int64_t block0, int64_t block1,
           float foldLimit = kFoldLimit)
      : a_(a),
        sequence_(sequence),
        T_(a.length(sequence)),
        start_(a.start(sequence)),
        hv_(hv),
        block0_(block0),
        blocks_(block1 - block0),
        ld_(roundUp(a.K, kLanes)),
        P_(a.packTokens * a.n),
        foldLimit_(foldLimit),
        scratch_(scratchFloats(a, blocks_)),
        rows_(a, FloatView(), sequence, hv, a.packTokens, block0 * kBlock, block1 * kBlock) {
    overflow_ = reinterpret_cast<Vec*>(scratch_.take(blocks_ * kLanes));
    state_ = scratch_.take(blocks_ * a.K * kBlock);
    pendingU_ = scratch_.take(blocks_ * 2 * kBlock);
    kRead_ = scratch_.take((P_ + 2) * ld_) + 2 * ld_;
    kWrite_ = Gate::kPerChannel ? scratch_.take((P_ + 2) * ld_) + 2 * ld_ : kRead_;
    qRead_ = scratch_.take(a.packTokens * ld_);
    rescale_ = scratch_.take((Gate::kPerChannel ? P_ : 1) * ld_);
    logSum_ = scratch_.take(ld_);
    logRest_ = scratch_.take(ld_);
    grow_ = scratch_.take(ld_);
    shrink_ = scratch_.take(ld_);
    vTail_ = scratch_.take(P_ * kBlock);
    oTail_ = scratch_.take(P_ * kBlock);
    decay_ = scratch_.take(P_);
    inverse_ = scratch_.take(P_);
    beta_ = scratch_.take(P_);
    decayLow_ = scratch_.take(P_);
    rescaleLog_ = scratch_.take(P_);
    rescaleLow_ = scratch_.take(P_);
    zeroRow_ = scratch_.take(ld_ + kBlock);
    if (stagesOutput(a))
      oStage_ = scratch_.take(a.packTokens * blocks_ * kBlock);
    else if (a.o)
      o_ = static_cast<float*>(a.o) + (start_ * a.HV + hv) * a.V;
    pairs_ = std::make_unique<Pair[]>(P_);
  }

  void run() {
    scan();
    for (int64_t j = 0; j < blocks_; ++j) {
      if (overflowed(j))
        HeadScan(a_, sequence_, hv_, block0_ + j, block0_ + j + 1, kSmallFoldLimit).run();
      else if (a_.finalState)
        storeBlock(block(j), a_.K, a_.V, block0_ + j, a_.finalState + a_.stateOffset(sequence_, hv_));
    }
  }

 private:
  // Outputs of a half-width type are gathered as float32 first, a pack at a time.
  static bool stagesOutput(const RecurrenceForward& a) { return a.o && a.oDType != DType::F32; }

  float* block(int64_t j) { return state_ + j * a_.K * kBlock; }

  // A folded value is up to e^kFoldLimit larger than what it stands for. Where that leaves float32, the scan is done
  // again with hardly any folding, block by block: the bits of a block do not depend on which others its task had.
  bool overflowed(int64_t j) {
    return foldLimit_ > kSmallFoldLimit && !std::is_same_v<Gate, NoGate> && std::isnan(sum(overflow_[j])) &&
           finiteInputs(j);
  }

  static bool finite(const float* x, int64_t n) {
    float all = 0;
    for (int64_t i = 0; i < n; ++i) all += 0 * x[i];
    return all == 0;
  }

  // What the block depends on: its columns of values and state (other tasks may be writing the others already), keys,
  // queries, strengths and gates of the head (-Inf is a reset). Where one is not finite nothing has overflowed, and a
  // second scan would only change the bits of what does not depend on it.
  bool finiteInputs(int64_t j) {
    const int64_t column = (block0_ + j) * kBlock, width = a_.V - column < kBlock ? a_.V - column : kBlock;
    for (int64_t i = 0; i < a_.K && a_.initialState; ++i)
      if (!finite(a_.initialState + a_.stateOffset(sequence_, hv_) + i * a_.V + column, width)) return false;
    for (int64_t t = 0; t < T_; ++t) {
      if (t % a_.packTokens == 0) rows_.prepare(t, T_ - t < a_.packTokens ? T_ - t : a_.packTokens);
      bool yes = finite(rows_.q(t), a_.K);
      for (int64_t s = t * a_.n; s < (t + 1) * a_.n; ++s) {
        yes = yes && finite(rows_.k(s), a_.K) && finite(rows_.v(s) + column, width);
        if (Update::kDelta) yes = yes && std::isfinite(rows_.beta(s));
      }
      if constexpr (Gate::kPerChannel) {
        for (int64_t i = 0; i < a_.K; ++i) yes = yes && rows_.g(t)[i] <= std::numeric_limits<float>::max();
      } else {
        yes = yes && Gate::logDecay(rows_, t) <= std::numeric_limits<float>::max();
      }
      if (!yes) return false;
    }
    return true;
  }

  void scan() {
    start();
    const int64_t steps = T_ * a_.n;
    for (int64_t s0 = 0; s0 < steps; s0 += P_) {
      if (a_.savedStates) {
        settle();
        saveStates(s0 / P_);
      }
      const int count = static_cast<int>(steps - s0 < P_ ? steps - s0 : P_);
      pack(s0, count);
      for (int64_t j = 0; j < blocks_; j += 2) sweep(s0, count, j, j + 2 < blocks_ ? j + 2 : blocks_);
      if (Update::kDelta) keepPending();
      if (a_.cancel && a_.cancel->load(std::memory_order_relaxed)) return;
    }
    settle();
  }

  void start() {
    for (int64_t j = 0; j < blocks_; ++j) overflow_[j] = zero();
    for (int64_t j = 0; j < blocks_; ++j) {
      if (a_.initialState)
        loadBlock(a_.initialState + a_.stateOffset(sequence_, hv_), a_.K, a_.V, block0_ + j, block(j));
      else
        std::memset(block(j), 0, a_.K * kBlock * sizeof(float));
    }
    std::memset(zeroRow_, 0, (ld_ + kBlock) * sizeof(float));
    for (int s = 0; s < P_; ++s) decay_[s] = inverse_[s] = 1.0f;
    clearPending();
  }

  void clearPending() {
    std::memset(pendingU_, 0, blocks_ * 2 * kBlock * sizeof(float));
    std::memset(kWrite_ - 2 * ld_, 0, 2 * ld_ * sizeof(float));
    std::memset(logSum_, 0, ld_ * sizeof(float));
    std::memset(logRest_, 0, ld_ * sizeof(float));
    logDecay_ = 0;
  }

  // Pending writes and folded decays into the state itself.
  void settle() {
    for (int64_t i = 0; i < ld_; i += kLanes)
      store(rescale_ + i, Gate::kPerChannel ? exp(load(logSum_ + i), load(logRest_ + i))
                                            : splat(static_cast<float>(std::exp(logDecay_))));
    for (int64_t j = 0; j < blocks_; ++j)
      settleBlock(block(j), a_.K, kWrite_ - 2 * ld_, kWrite_ - ld_, Update::kDelta ? pending(j) : nullptr, rescale_,
                  overflow_[j]);
    clearPending();
  }

  Vec* pending(int64_t j) { return reinterpret_cast<Vec*>(pendingU_ + j * 2 * kBlock); }

  void saveStates(int64_t chunk) {
    const SavedGeometry geometry = savedGeometry(a_.n, a_.K, a_.V);
    const int64_t first = a_.savedOneHead ? 0 : geometry.stateAt(a_, sequence_, hv_);
    float* to = a_.savedStates + first + chunk * geometry.stateFloats;
    std::memcpy(to + block0_ * a_.K * kBlock, state_, blocks_ * a_.K * kBlock * sizeof(float));
  }

  // ---- packing: which steps pair up, their decays, their rows

  void pack(int64_t s0, int count) {
    pairCount_ = 0;
    rows_.prepare(tokenOf(s0), tokenOf(count));
    if constexpr (Update::kDelta)
      for (int s = 0; s < count; ++s) beta_[s] = rows_.beta(s0 + s);
    if constexpr (Gate::kPerChannel)
      for (int s = 0; s < count;) s += packChannelPair(s0, s, count);
    else {
      planScalarPairs(s0, count);
      for (int x = 0; x < pairCount_; ++x) packScalarPair(s0, pairs_[x]);
    }
  }

  int64_t tokenOf(int64_t s) const { return a_.n == 1 ? s : s / a_.n; }
  bool firstOfToken(int64_t s) const { return a_.n == 1 || s % a_.n == 0; }
  bool lastOfToken(int64_t s) const { return a_.n == 1 || s % a_.n == a_.n - 1; }

  Pair& addPair(int64_t s0, int s, bool two, bool rescale) {
    Pair& pair = pairs_[pairCount_++];
    const int64_t step = s0 + s, t0 = tokenOf(step), t1 = two ? tokenOf(step + 1) : t0, first = tokenOf(s0);
    pair.first = s;
    pair.two = two;
    pair.rescale = rescale;
    pair.read0 = a_.o && lastOfToken(step);
    pair.read1 = a_.o && two && lastOfToken(step + 1);
    pair.k0 = kRead_ + s * ld_;
    pair.k1 = two ? pair.k0 + ld_ : zeroRow_;
    pair.w0 = kWrite_ + s * ld_;
    pair.w1 = two ? pair.w0 + ld_ : zeroRow_;
    pair.q0 = pair.read0 ? qRead_ + (t0 - first) * ld_ : zeroRow_;
    pair.q1 = pair.read1 ? qRead_ + (t1 - first) * ld_ : zeroRow_;
    pair.v0 = rows_.v(step);
    pair.v1 = two ? rows_.v(step + 1) : nullptr;
    pair.o0 = pair.read0 ? outputRow(t0, first) : oTail_;
    pair.o1 = pair.read1 ? outputRow(t1, first) : oTail_;
    return pair;
  }

  float* outputRow(int64_t t, int64_t first) const {
    return oStage_ ? oStage_ + (t - first) * blocks_ * kBlock : o_ + t * a_.HV * a_.V;
  }

  // A gate per head or token. Two steps share a pass unless the second one's gate is a reset or too strong to fold.
  void planScalarPairs(int64_t s0, int count) {
    constexpr bool gated = !std::is_same_v<Gate, NoGate>;
    const auto gate = [&](int s) -> double {
      return gated && firstOfToken(s0 + s) ? Gate::logDecay(rows_, tokenOf(s0 + s)) : 0.0f;
    };
    for (int s = 0; s < count;) {
      const double g0 = gate(s), g1 = s + 1 < count ? gate(s + 1) : 0;
      const bool two = s + 1 < count && std::fabs(g1) <= foldLimit_, reset = g0 < kResetBelow;
      double c = logDecay_ + g0;
      const bool rescale = reset || std::fabs(c) > foldLimit_ || (two && std::fabs(c + g1) > foldLimit_);
      if (rescale) {
        setLog(rescaleLog_, rescaleLow_, pairCount_, reset ? -1000.0 : c);
        c = 0;
      }
      if (gated) setLog(decay_, decayLow_, s, c);
      if (two) {
        c += g1;
        if (gated) setLog(decay_, decayLow_, s + 1, c);
      }
      logDecay_ = c;
      addPair(s0, s, two, rescale);
      s += two ? 2 : 1;
    }
    for (int s = 0; s < count && a_.outputScale; ++s)
      decay_[s] = a_.outputScale[(start_ + tokenOf(s0 + s)) * a_.H + a_.keyHead(hv_)];
    if (!gated) return;
    for (int s = 0; s < count; s += kLanes) {
      Vec grow, shrink;
      expBoth(load(decay_ + s), load(decayLow_ + s), grow, shrink);
      store(decay_ + s, grow);
      store(inverse_ + s, shrink);
    }
    for (int x = 0; x < pairCount_; x += kLanes)
      store(rescaleLog_ + x, exp(load(rescaleLog_ + x), load(rescaleLow_ + x)));
  }

  static void setLog(float* high, float* low, int at, double value) {
    high[at] = static_cast<float>(value);
    low[at] = static_cast<float>(value - high[at]);
  }

  // Keys and queries go in as they are (queries times scale): values and outputs carry the decay.
  void packScalarPair(int64_t s0, Pair& pair) {
    pair.two&& pair.read0&& pair.read1 ? packScalarRows<true>(s0, pair) : packScalarRows<false>(s0, pair);
  }

  // kAll: all four rows are there, as they are for n = 1.
  template <bool kAll>
  void packScalarRows(int64_t s0, Pair& pair) {
    const int64_t step = s0 + pair.first;
    const bool two = kAll || pair.two, read0 = kAll || pair.read0, read1 = kAll || pair.read1;
    const float *ka = rows_.k(step), *kb = two ? rows_.k(step + 1) : zeroRow_;
    const float* qa = read0 ? rows_.q(tokenOf(step)) : zeroRow_;
    const float* qb = read1 ? rows_.q(tokenOf(step + 1)) : zeroRow_;
    float *k0 = kRead_ + pair.first * ld_, *k1 = k0 + ld_, *q0 = pair.q0, *q1 = pair.q1;
    const Vec scale = splat(a_.scale);
    Vec q0k0 = zero(), q1k0 = zero(), q1k1 = zero(), k1k0 = zero();
    const auto body = [&](int64_t i, Vec x0, Vec x1, Vec y0, Vec y1) __attribute__((always_inline)) {
      y0 *= scale;
      y1 *= scale;
      store(k0 + i, x0);
      if (two) store(k1 + i, x1);
      if (read0) store(q0 + i, y0);
      if (read1) store(q1 + i, y1);
      if constexpr (Update::kDelta) {
        q0k0 = fma(y0, x0, q0k0);
        q1k0 = fma(y1, x0, q1k0);
        q1k1 = fma(y1, x1, q1k1);
        k1k0 = fma(x1, x0, k1k0);
      }
    };
    const int64_t whole = a_.K / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) body(i, load(ka + i), load(kb + i), load(qa + i), load(qb + i));
    if (const int left = static_cast<int>(a_.K - whole))
      body(whole, loadPart(ka + whole, left), loadPart(kb + whole, left), loadPart(qa + whole, left),
           loadPart(qb + whole, left));
    if constexpr (Update::kDelta) sums(q0k0, q1k0, q1k1, k1k0, pair.dots);
  }

  // A gate per channel: reads see k e^c and q e^c, writes k e^-c. Returns how many steps the pair took.
  int packChannelPair(int64_t s0, int s, int count) {
    const int64_t step = s0 + s, whole = a_.K / kLanes * kLanes;
    const int left = static_cast<int>(a_.K - whole);
    const bool gate0 = firstOfToken(step), gate1 = s + 1 < count && firstOfToken(step + 1);
    const float* ga = gate0 ? Gate::logDecays(rows_, tokenOf(step)) : zeroRow_;
    const float* gb = gate1 ? Gate::logDecays(rows_, tokenOf(step + 1)) : zeroRow_;
    const auto part = [&](const float* p, int64_t i) __attribute__((always_inline)) {
      return i < whole ? load(p + i) : loadPart(p + i, left);
    };

    IVec strong1{}, over0{}, over1{};
    for (int64_t i = 0; i < ld_; i += kLanes) {
      const Vec g0 = part(ga, i), g1 = part(gb, i), c0 = load(logSum_ + i) + g0;
      over0 |= ~(abs(c0) <= foldLimit_);
      over1 |= ~(abs(c0 + g1) <= foldLimit_);
      strong1 |= ~(abs(g1) <= foldLimit_);
    }
    const bool two = s + 1 < count && !any(strong1), rescale = any(over0) || (two && any(over1));
    Pair& pair = addPair(s0, s, two, rescale);

    const float *ka = rows_.k(step), *kb = two ? rows_.k(step + 1) : zeroRow_;
    const float* qa = pair.read0 ? rows_.q(tokenOf(step)) : zeroRow_;
    const float* qb = pair.read1 ? rows_.q(tokenOf(step + 1)) : zeroRow_;
    float *k0 = kRead_ + s * ld_, *w0 = kWrite_ + s * ld_, *mult = rescale_ + (pairCount_ - 1) * ld_;
    Vec q0k0 = zero(), q1k0 = zero(), q1k1 = zero(), k1k0 = zero();
    for (int64_t i = 0; i < ld_; i += kLanes) {
      Vec c = load(logSum_ + i), rest = load(logRest_ + i), grow = load(grow_ + i), shrink = load(shrink_ + i);
      if (gate0 || rescale) {
        const Vec g0 = part(ga, i);
        addExactly(c, rest, atLeast(g0, splat(2 * kResetBelow)));
        if (rescale) {
          store(mult + i, select(g0 < kResetBelow, zero(), exp(c, rest)));
          c = rest = zero();
        }
        expBoth(c, rest, grow, shrink);
      }
      const Vec x0 = part(ka, i), x0w = x0 * shrink, y0 = part(qa, i) * grow * a_.scale;
      store(k0 + i, x0 * grow);
      store(w0 + i, x0w);
      if (pair.read0) store(pair.q0 + i, y0);
      if (two) {
        if (gate1) {
          addExactly(c, rest, part(gb, i));
          expBoth(c, rest, grow, shrink);
        }
        const Vec x1 = part(kb, i), x1r = x1 * grow, x1w = x1 * shrink, y1 = part(qb, i) * grow * a_.scale;
        store(k0 + ld_ + i, x1r);
        store(w0 + ld_ + i, x1w);
        if (pair.read1) store(pair.q1 + i, y1);
        if constexpr (Update::kDelta) {
          q1k0 = fma(y1, x0w, q1k0);
          q1k1 = fma(y1, x1w, q1k1);
          k1k0 = fma(x1r, x0w, k1k0);
        }
      }
      if constexpr (Update::kDelta) q0k0 = fma(y0, x0w, q0k0);
      store(logSum_ + i, c);
      store(logRest_ + i, rest);
      store(grow_ + i, grow);
      store(shrink_ + i, shrink);
    }
    if constexpr (Update::kDelta) sums(q0k0, q1k0, q1k1, k1k0, pair.dots);
    return two ? 2 : 1;
  }

  static bool any(IVec mask) {
    int32_t all = 0;
    for (int i = 0; i < kLanes; ++i) all |= mask[i];
    return all != 0;
  }

  // ---- the state

  // Column blocks [j0, j1) through the packed steps. Two blocks alternate: a pair's new u hangs on its pass, and the
  // other block's pass fills that wait.
  void sweep(int64_t s0, int count, int64_t j0, int64_t j1) {
    const bool tail = (block0_ + j1) * kBlock > a_.V;
    if (tail) copyTailIn(s0, count, j1 - 1);
    for (int x = 0; x < pairCount_; ++x) {
      if (j0 == 0) prefetchNext(s0, pairs_[x]);
      for (int64_t j = j0; j < j1; ++j) step(s0, x, j, tail && j == j1 - 1);
    }
    if (tail && o_) copyTailOut(s0, count, j1 - 1);
    if (oStage_ && j1 == blocks_) writeOutputs(s0, count);
  }

  void step(int64_t s0, int x, int64_t j, bool tail) {
    const Pair& pair = pairs_[x];
    const int s = pair.first;
    const int64_t column = (block0_ + j) * kBlock;
    PassRows rows{
        nullptr, nullptr, pair.k0, pair.k1, pair.q0, pair.q1, Gate::kPerChannel ? rescale_ + x * ld_ : rescale_};
    if (!Gate::kPerChannel && pair.rescale)
      for (int64_t i = 0; i < a_.K; ++i) rescale_[i] = rescaleLog_[x];
    const float* v0 = tail ? vTail_ + s * kBlock : pair.v0 + column;
    const float* v1 = !pair.two ? zeroRow_ : tail ? v0 + kBlock : pair.v1 + column;
    float* o0 = oStage_ ? pair.o0 + j * kBlock : tail ? oTail_ + s * kBlock : pair.o0 + column;
    float* o1 = oStage_ ? pair.o1 + j * kBlock : tail ? o0 + kBlock : pair.o1 + column;
    const float d0 = decay_[s], i0 = inverse_[s], d1 = pair.two ? decay_[s + 1] : 1,
                i1 = pair.two ? inverse_[s + 1] : 1;
    Vec r[2 * kVecs] = {};

    if constexpr (Update::kDelta) {
      Vec* u = pending(j);
      rows.w0 = x ? pairs_[x - 1].w0 : kWrite_ - 2 * ld_;
      rows.w1 = x ? pairs_[x - 1].w1 : kWrite_ - ld_;
      Vec p[2 * kVecs] = {};
      runDeltaPass(block(j), rows, u, p, r, pair);
      const float b0 = beta_[s], b1 = pair.two ? beta_[s + 1] : 0;
#pragma GCC unroll 4
      for (int e = 0; e < kVecs; ++e) {
        const Vec x0 = load(v0 + e * kLanes), x1 = load(v1 + e * kLanes);
        const Vec u0 = fma(splat(-b0), p[e], x0 * splat(b0 * i0));
        const Vec p1 = fma(splat(pair.dots[3]), u0, p[kVecs + e]);
        const Vec u1 = fma(splat(-b1), p1, x1 * splat(b1 * i1));
        u[e] = u0;
        u[kVecs + e] = u1;
        overflow_[j] = fma(zero(), u0 + u1, overflow_[j]);
        if (pair.read0) store(o0 + e * kLanes, fma(splat(pair.dots[0]), u0, r[e]) * splat(d0));
        if (pair.read1)
          store(o1 + e * kLanes, fma(splat(pair.dots[2]), u1, fma(splat(pair.dots[1]), u0, r[kVecs + e])) * splat(d1));
        if (a_.savedResiduals) {
          float* to = residual(s0 + s, column) + e * kLanes;
          store(to, fnma(splat(d0), p[e], x0));
          if (pair.two) store(to + residualStride(), fnma(splat(d1), p1, x1));
        }
      }
    } else {
      Vec v[2 * kVecs];
#pragma GCC unroll 4
      for (int e = 0; e < kVecs; ++e) {
        v[e] = load(v0 + e * kLanes) * splat(i0);
        v[kVecs + e] = load(v1 + e * kLanes) * splat(i1);
        overflow_[j] = fma(zero(), v[e] + v[kVecs + e], overflow_[j]);
      }
      rows.k0 = pair.w0;
      rows.k1 = pair.w1;
      const auto pass = a_.o ? (pair.rescale ? additivePass<true, true> : additivePass<true, false>)
                             : (pair.rescale ? additivePass<false, true> : additivePass<false, false>);
      inStretches(a_.K, [&](int64_t i0, int64_t i1) { pass(block(j), i0, i1, rows, v, r); });
#pragma GCC unroll 4
      for (int e = 0; e < kVecs; ++e) {
        if (a_.o) overflow_[j] = fma(zero(), r[e] + r[kVecs + e], overflow_[j]);
        if (pair.read0) store(o0 + e * kLanes, r[e] * splat(d0));
        if (pair.read1) store(o1 + e * kLanes, r[kVecs + e] * splat(d1));
      }
    }
  }

  void runDeltaPass(float* S, const PassRows& rows, const Vec* u, Vec* p, Vec* r, const Pair& pair) {
    using Pass = void (*)(float*, int64_t, int64_t, const PassRows&, const Vec*, Vec*, Vec*);
    static constexpr Pass kPasses[] = {deltaPass<false, false, false>, deltaPass<false, false, true>,
                                       deltaPass<false, true, false>,  deltaPass<false, true, true>,
                                       deltaPass<true, false, false>,  deltaPass<true, false, true>,
                                       deltaPass<true, true, false>,   deltaPass<true, true, true>};
    const Pass pass = kPasses[4 * pair.read0 + 2 * pair.read1 + pair.rescale];
    inStretches(a_.K, [&](int64_t i0, int64_t i1) { pass(S, i0, i1, rows, u, p, r); });
  }

  // The keys of the last pair move in front of the pack, where the next one finds its pending writes.
  void keepPending() {
    const Pair& last = pairs_[pairCount_ - 1];
    std::memmove(kWrite_ - 2 * ld_, kWrite_ + last.first * ld_, ld_ * sizeof(float));
    std::memcpy(kWrite_ - ld_, last.two ? kWrite_ + (last.first + 1) * ld_ : zeroRow_, ld_ * sizeof(float));
  }

  int64_t residualStride() const { return roundUp(a_.V, kBlock); }
  float* residual(int64_t s, int64_t column) {
    const int64_t step = (a_.savedOneHead ? 0 : (start_ * a_.HV + hv_ * T_) * a_.n) + s;
    return a_.savedResiduals + step * residualStride() + column;
  }

  // The last block's columns beyond V read as zero and are not written.
  void copyTailIn(int64_t s0, int count, int64_t j) {
    const int64_t column = (block0_ + j) * kBlock, n = a_.V - column;
    for (int s = 0; s < count; ++s) {
      std::memset(vTail_ + s * kBlock, 0, kBlock * sizeof(float));
      std::memcpy(vTail_ + s * kBlock, rows_.v(s0 + s) + column, n * sizeof(float));
    }
  }
  void copyTailOut(int64_t s0, int count, int64_t j) {
    const int64_t column = (block0_ + j) * kBlock, n = a_.V - column, t0 = tokenOf(s0);
    for (int t = 0; t < tokenOf(count); ++t)
      std::memcpy(o_ + (t0 + t) * a_.HV * a_.V + column, oTail_ + ((t + 1) * a_.n - 1) * kBlock, n * sizeof(float));
  }

  void writeOutputs(int64_t s0, int count) {
    const int64_t column = block0_ * kBlock, width = blocks_ * kBlock,
                  n = a_.V - column < width ? a_.V - column : width;
    for (int64_t t = 0; t < tokenOf(count); ++t)
      narrow(oStage_ + t * width, n, a_.o, a_.oDType, ((start_ + tokenOf(s0) + t) * a_.HV + hv_) * a_.V + column);
  }

  // The next pack's rows.
  void prefetchNext(int64_t s0, const Pair& pair) {
    for (int e = 0; e < 2; ++e) {
      const int64_t s = s0 + P_ + pair.first + e;
      if (s >= T_ * a_.n) return;
      rows_.prefetchStep(s, tokenOf(s));
    }
  }

  const RecurrenceForward& a_;
  const int64_t sequence_, T_, start_, hv_, block0_, blocks_, ld_, P_;
  const float foldLimit_;
  Scratch scratch_;
  HeadRows rows_;
  float* o_ = nullptr;                   // this head's first row, where outputs are written in place
  float* oStage_ = nullptr;              // else [packTokens][blocks x kBlock]
  float *state_, *pendingU_;             // [blocks][K][kBlock], [blocks][2][kBlock]
  float *kRead_, *kWrite_, *qRead_;      // [P][ld], two rows of pending keys before kWrite
  float* rescale_;                       // [pairs][ld] per channel, else [ld]
  float *logSum_, *logRest_;             // [ld] cumulative log decay per channel
  float *grow_, *shrink_;                // [ld] e^c and e^-c of the step before
  float *vTail_, *oTail_;                // [P][kBlock]
  float *decay_, *inverse_, *decayLow_;  // [P] e^c, e^-c; first the log itself and its low part
  float *rescaleLog_, *rescaleLow_;      // [pairs]
  float *beta_, *zeroRow_;
  Vec* overflow_;        // [blocks] NaN in a lane once something in it was not finite
  double logDecay_ = 0;  // cumulative log decay of a gate per head or token
  std::unique_ptr<Pair[]> pairs_;
  int pairCount_ = 0;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
