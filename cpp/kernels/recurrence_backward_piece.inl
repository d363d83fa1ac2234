// Gradients of one piece of a chunk, all of whose decays fold.
//
// With c the log decay from a token to the piece's last (of the first token's own gate nothing, it stands outside),
// q+ = q e^c, k+ = k e^c, k- = k e^-c, and D~ = e^c dS, per step and in reverse:
//   D~ += q+ dO^T (a token's last step);  du = D~^T k-;  dv = beta du;  dp = -dv;  dbeta = du.r;  D~ += k+ dp^T
// where r = v - S^T k comes from the forward. Two steps share a pass over D~, as in the forward. Then, with S0 the
// state before the piece, DC the gradient at its end, u = beta r, M1 = dO u^T, M2 = dp u^T:
//   dq = e^c (S0 dO + sum_j M1 k-_j)
//   dk = e^c (S0 dp + sum_{j<s} M2 k-_j) + e^-c (DC u + sum M1 q+ + sum_{s>j} M2 k+)
// A gate per channel goes onto queries and keys as written; one per head or token onto the other side, dO+ = e^c dO,
// dp+ = e^c dp, u- = e^-c u, so that queries and keys stay what they are and gradients come out unfolded.
#include "kernels/recurrence_gate_gradient.inl"
#include "kernels/recurrence_products.inl"
#include "kernels/recurrence_reverse_pass.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// Where a value head's gradients of queries and keys go: rows `stride` floats apart.
struct KeyGradients {
  float *dq, *dk;
  int64_t stride;
};

// Past the caches: a gradient is written once, whole lines at a time, and not read again before the others are there.
// To addresses of whole vectors only; finishStreaming() before anybody reads.
RANKONE_INLINE void streamStore(float* p, Vec x) {
#if RANKONE_LEVEL == 2
  _mm512_stream_ps(p, x);
#elif RANKONE_LEVEL == 1
  _mm256_stream_ps(p, x);
#else
  store(p, x);
#endif
}
RANKONE_INLINE void finishStreaming() {
#if RANKONE_LEVEL >= 1
  _mm_sfence();
#endif
}
inline bool streamable(const float* p, int64_t stride, int64_t width) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Vec) == 0 && stride % kLanes == 0 && width % kLanes == 0;
}

template <class Gate, class Update>
class BackwardPiece {
  static constexpr bool kGated = !std::is_same_v<Gate, NoGate>, kChannel = Gate::kPerChannel;
  // Column blocks that a reverse pass takes at once: as many as leave the writes' and the reads' vectors in registers.
  static constexpr int kWide = kLanes == 16 && Update::kDelta ? 2 : 1;
  // Gates that leave most of the state, pieces in a row whose dg goes token by token, and how long its rows are for
  // that.
  static constexpr float kMildGate = -2.0f;
  static constexpr int kGateSteps = 7, kFewestGateSums = 32;
  static constexpr int64_t kStreamedFloats = 1 << 19;

 public:
  BackwardPiece(const RecurrenceBackward& a, const HeadRows& rows, const SavedGeometry& geometry, int64_t sequence,
                int64_t hv, const KeyGradients& to, double* dgHead)
      : a_(a),
        rows_(rows),
        start_(a.start(sequence)),
        hv_(hv),
        Kp_(roundUp(a.K, 16)),
        Vp_(roundUp(a.V, kBlock)),
        Tp_(roundUp(geometry.chunkTokens, 16)),
        Cp_(roundUp(geometry.chunkTokens * a.n, 16)),
        Xp_(Tp_ + (Update::kDelta ? Cp_ : 0)),
        blocks_(Vp_ / kBlock),
        n_(static_cast<int>(a.n)),
        streamsKeys_(large(a) && streamable(to.dq, to.stride, a.K) && streamable(to.dk, to.stride, a.K)),
        streamsValues_(large(a) && streamable(a.dv, a.V, a.V)),
        to_(to),
        dgHead_(dgHead),
        scratch_(scratchFloats()) {
    eachBuffer([&](float*& p, int64_t floats) { p = scratch_.take(floats); });
    std::memset(zeroRow_, 0, (Kp_ + Vp_) * sizeof(float));
    std::memset(dgNext_, 0, Kp_ * sizeof(float));
    for (int64_t i = 0; i < Kp_; ++i) gate_[i] = unfold_[i] = 1;
    for (int64_t s = 0; s < Cp_; ++s) growStep_[s] = shrinkStep_[s] = 1;
  }

  // Tokens [t0, t1), whose rows are prepared: D from the gradient of the state after them to that of S0. `before`: the
  // state that the chunk before starts from, if that one is next.
  void run(int64_t t0, int64_t t1, const float* S0, const float* before, const float* residuals, float* D) {
    t0_ = t0;
    before_ = before;
    ct_ = static_cast<int>(t1 - t0);
    c_ = ct_ * n_;
    half_ = roundUp(ct_, kLanes);
    cPad_ = roundUp(c_, kLanes);
    residuals_ = Update::kDelta ? residuals + t0 * a_.n * Vp_ : nullptr;
    packDecays();
    packRows();
    packUpdates();
    // YT = DC U^T
    product<kBlock>(a_.K, cPad_, {D, 1, kBlock, blocks_, a_.K * kBlock}, UT_, Cp_, YT_, Cp_, false);
    const float* S = decayedState(S0);
    const bool wanted = kGated && (a_.dg || dgHead_), stepwise = wanted && gateStepsSuffice();
    if (wanted && !stepwise && ct_ > 1) rowProducts(S, D, through_);
    reverseScan(D);
    stateProducts(S);
    grams();
    unpackProducts();
    if (wanted && !stepwise) ct_ == 1 ? rowProducts(S0, D, dg_) : gateGradient();
    addInnerTerms();
    stepwise ? writeGradients<true>() : writeGradients<false>();
    if (stepwise) addGateSteps();
    if (wanted) writeGateGradient(stepwise);
  }

 private:
  // Gradients that no cache would hold until they are read.
  static bool large(const RecurrenceBackward& a) { return a.B * a.T * a.n * a.HV * (a.K + a.V) > kStreamedFloats; }

  template <class F>
  void eachBuffer(F&& f) {
    const int64_t T = Tp_, C = Cp_;
    f(q_, T * Kp_);
    f(kRead_, C * Kp_);
    if (kChannel) f(kWrite_, C * Kp_);
    f(dO_, T * Vp_);
    f(dP_, C * Vp_);
    f(UT_, Vp_ * C);
    f(GT_, Vp_ * Xp_);
    f(YT_, Kp_ * C);
    f(XT_, Kp_ * Xp_);
    f(X_, T * Kp_);
    f(Xk_, C * Kp_);
    f(Y_, C * Kp_);
    f(M_, C * kGramLd);
    f(G_, C * kGramLd);
    f(grow_, kChannel ? T * Kp_ : T);
    f(shrink_, kChannel ? T * Kp_ : T);
    f(growStep_, C);
    f(shrinkStep_, C);
    f(beta_, C);
    f(byU_, C);
    f(gate_, Kp_);
    f(unfold_, Kp_);
    f(through_, Kp_);
    if (kGated) f(S_, blocks_ * a_.K * kBlock);
    f(dg_, kChannel ? T * Kp_ : T + Kp_);
    f(dgNext_, Kp_);
    f(writes_, kWide * 2 * 4 * kBlock);
    f(dbeta_, C * kLanes);
    f(zeroRow_, Kp_ + Vp_);
  }

  size_t scratchFloats() {
    size_t all = 0;
    eachBuffer([&](float*&, int64_t floats) { all += alignFloats(static_cast<size_t>(floats)); });
    return all;
  }

  const float* writeKeys() const { return kChannel ? kWrite_ : kRead_; }
  int64_t firstStep() const { return t0_ * n_; }

  // ---- what is folded

  void packDecays() {
    if constexpr (!kGated) return;
    decayRows<Gate>(rows_, t0_, a_.K, gate_);
    if constexpr (kChannel) {
      Vec least = zero();
      for (int64_t i = 0; i < Kp_; i += kLanes) {
        Vec c = zero(), rest = zero(), grow = splat(1), shrink = splat(1);
        const int n = static_cast<int>(a_.K - i < kLanes ? a_.K - i : kLanes);
        for (int t = ct_ - 1; t >= 0; --t) {
          if (t < ct_ - 1 && n > 0) {
            const Vec g = loadUpTo(Gate::logDecays(rows_, t0_ + t + 1) + i, n);
            least = select(g < least, g, least);
            addExactly(c, rest, -g);
            expBoth(c, rest, grow, shrink);
          }
          store(grow_ + t * Kp_ + i, grow);
          store(shrink_ + t * Kp_ + i, shrink);
        }
        store(unfold_ + i, shrink);
        if (n > 0) {
          const Vec g = loadUpTo(Gate::logDecays(rows_, t0_) + i, n);
          least = select(g < least, g, least);
        }
      }
      leastGate_ = -largest(-least);
    } else {
      double c = 0;
      leastGate_ = 0;
      float low[kMaxChunkSteps + 16];
      for (int t = ct_ - 1; t >= 0; --t) {
        grow_[t] = static_cast<float>(c);
        low[t] = static_cast<float>(c - static_cast<double>(grow_[t]));
        const float g = Gate::logDecay(rows_, t0_ + t);
        leastGate_ = g < leastGate_ ? g : leastGate_;
        c -= static_cast<double>(g);
      }
      for (int64_t t = ct_; t < half_; ++t) grow_[t] = low[t] = 0;
      for (int t = 0; t < ct_; t += kLanes) {
        Vec grow, shrink;
        expBoth(load(grow_ + t), load(low + t), grow, shrink);
        store(grow_ + t, grow);
        store(shrink_ + t, shrink);
      }
      for (int64_t i = 0; i < Kp_; ++i) unfold_[i] = shrink_[0];
      for (int s = 0; s < c_; ++s) {
        growStep_[s] = grow_[s / n_];
        shrinkStep_[s] = shrink_[s / n_];
      }
    }
  }

  // Queries, keys and output gradients, and what the steps of a pair owe each other.
  void packRows() {
    for (int x = 0; 2 * x < c_; ++x) packPair(x);
    for (int t = 0; t < ct_; ++t) {
      const float* from = rows_.dO(t0_ + t);
      float* d = dO_ + t * Vp_;
      float by = a_.outputScale ? a_.scale * a_.outputScale[(start_ + t0_ + t) * a_.H + a_.keyHead(hv_)] : a_.scale;
      if (kGated && !kChannel) by *= grow_[t];
      const int64_t whole = a_.V / kLanes * kLanes;
      for (int64_t j = 0; j < whole; j += kLanes) store(d + j, load(from + j) * by);
      if (const int left = static_cast<int>(a_.V - whole)) store(d + whole, loadPart(from + whole, left) * by);
      for (int64_t j = roundUp(a_.V, kLanes); j < Vp_; j += kLanes) store(d + j, zero());
    }
  }

  void packPair(int x) {
    const int s = 2 * x, t0 = s / n_, t1 = (s + 1) / n_;
    const bool two = s + 1 < c_, read0 = lastOfToken(s), read1 = lastOfToken(s + 1);
    const int64_t step = firstStep() + s;
    const float *ka = rows_.k(step), *kb = two ? rows_.k(step + 1) : zeroRow_;
    const float *qa = read0 ? rows_.q(t0_ + t0) : zeroRow_, *qb = read1 ? rows_.q(t0_ + t1) : zeroRow_;
    float *k0 = kRead_ + s * Kp_, *k1 = k0 + Kp_, *w0 = kWrite_ + s * Kp_, *w1 = w0 + Kp_;
    float *q0 = q_ + t0 * Kp_, *q1 = q_ + t1 * Kp_;
    Vec q1k1 = zero(), q0k0 = zero(), q1k0 = zero(), k1k0 = zero();
    const auto body = [&](int64_t i, Vec y0, Vec y1, Vec z0, Vec z1) __attribute__((always_inline)) {
      Vec v0 = y0, v1 = y1;  // as they are written
      if constexpr (kChannel) {
        const Vec grow0 = load(grow_ + t0 * Kp_ + i), shrink0 = load(shrink_ + t0 * Kp_ + i);
        v0 = y0 * shrink0;
        y0 *= grow0;
        z0 *= grow0;
        store(w0 + i, v0);
        if (two) {
          const Vec grow1 = load(grow_ + t1 * Kp_ + i);
          v1 = y1 * load(shrink_ + t1 * Kp_ + i);
          y1 *= grow1;
          z1 *= grow1;
          store(w1 + i, v1);
        }
      }
      store(k0 + i, y0);
      if (two) store(k1 + i, y1);
      if (read0) store(q0 + i, z0);
      if (read1) store(q1 + i, z1);
      q1k1 = fma(z1, v1, q1k1);
      q0k0 = fma(z0, v0, q0k0);
      q1k0 = fma(z1, v0, q1k0);
      k1k0 = fma(y1, v0, k1k0);
    };
    const int64_t whole = a_.K / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) body(i, load(ka + i), load(kb + i), load(qa + i), load(qb + i));
    if (const int left = static_cast<int>(a_.K - whole))
      body(whole, loadPart(ka + whole, left), loadPart(kb + whole, left), loadPart(qa + whole, left),
           loadPart(qb + whole, left));
    for (int64_t i = roundUp(a_.K, kLanes); i < Kp_; i += kLanes) body(i, zero(), zero(), zero(), zero());
    sums(q1k1, q0k0, q1k0, k1k0, dots_[x]);
  }

  // UT = u^T, u- where decays are on this side.
  void packUpdates() {
    for (int s = 0; s < c_; ++s) {
      if constexpr (Update::kDelta) beta_[s] = rows_.beta(firstStep() + s);
      byU_[s] = (Update::kDelta ? beta_[s] : 1) * shrinkStep_[s];
    }
    for (int64_t s = c_; s < cPad_; ++s) byU_[s] = 0;
    Vec check = zero();
    const auto scaled = [&](Vec x, int64_t m) __attribute__((always_inline)) {
      const Vec u = x * load(byU_ + m);
      if (kGated) check = fma(zero(), u, check);
      return u;
    };
    if constexpr (Update::kDelta) {
      transposed(residuals_, Vp_, c_, Vp_, UT_, Cp_, scaled);
    } else {
      const float* v = rows_.v(firstStep());
      transposed(v, c_ > 1 ? rows_.v(firstStep() + 1) - v : 0, c_, a_.V, UT_, Cp_, scaled);
      for (int64_t j = a_.V; j < Vp_; ++j) std::memset(UT_ + j * Cp_, 0, Cp_ * sizeof(float));
    }
    finiteUpdates_ = sum(check) == 0;
  }

  // ---- the reverse scan

  bool lastOfToken(int s) const { return s < c_ && (n_ == 1 || s % n_ == n_ - 1); }
  const float* queryOf(int s) const { return lastOfToken(s) ? q_ + s / n_ * Kp_ : zeroRow_; }
  const float* rowOf(const float* rows, int s) const { return s < c_ ? rows + s * Kp_ : zeroRow_; }
  float* block(float* state, int64_t j) const { return state + j * a_.K * kBlock; }
  const float* block(const float* state, int64_t j) const { return state + j * a_.K * kBlock; }

  // dp, dv and dbeta of all steps, D back to the state before the piece.
  void reverseScan(float* D) {
    if (Update::kDelta) std::memset(dbeta_, 0, c_ * kLanes * sizeof(float));
    startFetching();
    int64_t j = 0;
    if constexpr (kWide == 2) {
      for (; j + 2 <= blocks_; j += 2) scanBlocks<2, 1>(D, j);
    } else {
      for (; j + 2 <= blocks_; j += 2) scanBlocks<1, 2>(D, j);
    }
    if (j < blocks_) scanBlocks<1, 1>(D, j);
    if (!Update::kDelta || !a_.dbeta) return;
    for (int s = 0; s < c_; ++s)
      a_.dbeta[((start_ + t0_) * n_ + s) * a_.HV + hv_] = sum(load(dbeta_ + s * kLanes)) * shrinkStep_[s];
  }

  // kGroups groups of kBlocks blocks from j on take turns, which hides the latency between a group's passes.
  template <int kBlocks, int kGroups>
  void scanBlocks(float* D, int64_t j) {
    for (int x = (c_ + 1) / 2 - 1; x >= -1; --x) {
      if (j == 0 && before_ && x >= 0) fetchRows(x);
      for (int g = 0; g < kGroups; ++g) {
        Vec d[2 * kBlocks * kVecs] = {};
        Vec* w = reinterpret_cast<Vec*>(writes_ + g * 4 * kBlocks * kBlock);
        runPass<kBlocks>(block(D, j + g * kBlocks), 2 * x, w, d);
        if (x >= 0) reverseStep<kBlocks>(x, (j + g * kBlocks) * kBlock, w, d);
      }
    }
  }

  // What the next piece reads lies too far apart, or runs backwards, for the hardware's prefetcher. State and
  // residuals, which are contiguous, come bit by bit with the rows of all passes: a burst would hold up the passes' own
  // loads.
  void startFetching() {
    const int64_t state = blocks_ * a_.K * kBlock, residuals = Update::kDelta ? c_ * Vp_ : 0;
    fetch_[0] = {before_, before_ ? before_ + state : nullptr};
    fetch_[1] = {before_ ? residuals_ - residuals : nullptr, before_ ? residuals_ : nullptr};
    const int64_t rows = ((blocks_ + kWide - 1) / kWide) * ((c_ + 1) / 2 + 1) * a_.K;
    fetchStep_ = (state + residuals + rows - 1) / rows;
  }

  void fetchLines(ReverseRows& rows) {
    rows.fetch = zeroRow_;
    rows.fetchStep = 0;
    for (auto& range : fetch_) {
      if (range.at >= range.end) continue;
      rows.fetch = range.at;
      rows.fetchStep = fetchStep_;
      range.at += a_.K * fetchStep_;
      return;
    }
  }

  void fetchRows(int x) const {
    const auto fetch = [&](const FloatView& rows, int64_t row, int64_t heads, int64_t head, int64_t width)
        __attribute__((always_inline)) {
      const char *p = rows.at((row * heads + head) * width), *last = rows.at((row * heads + head + 1) * width);
      for (; p < last; p += 64) __builtin_prefetch(p, 0, 2);
    };
    const int64_t head = a_.keyHead(hv_);
    for (int64_t s = firstStep() - c_ + 2 * x; s < firstStep() - c_ + 2 * x + 2; ++s) {
      const int64_t step = start_ * n_ + s, t = s / n_;
      if (s < 0) continue;
      fetch(a_.k, step, a_.H, head, a_.K);
      if (!Update::kDelta) fetch(a_.v, step, a_.HV, hv_, a_.V);
      if (n_ > 1 && s % n_ != 0) continue;
      fetch(a_.q, start_ + t, a_.H, head, a_.K);
      fetch(a_.dO, start_ + t, a_.HV, hv_, a_.V);
      if (kChannel) fetch(a_.g, start_ + t, a_.HV, hv_, a_.K);
    }
  }

  // The reads of steps s and s + 1, after the writes of the pair that follows.
  template <int kBlocks>
  void runPass(float* D, int s, const Vec* w, Vec* d) {
    using Passes = ReversePasses<kBlocks, Update::kDelta>;
    const int pending = s + 2;
    const bool last0 = lastOfToken(pending), last1 = lastOfToken(pending + 1);
    ReverseRows rows{queryOf(pending),
                     queryOf(pending + 1),
                     rowOf(kRead_, pending),
                     rowOf(kRead_, pending + 1),
                     s < 0 ? zeroRow_ : writeKeys() + s * Kp_,
                     s < 0 ? zeroRow_ : rowOf(writeKeys(), s + 1),
                     unfold_,
                     gate_,
                     nullptr,
                     0};
    fetchLines(rows);
    const auto pass = s < 0 ? Passes::kLast : pending >= c_ ? Passes::kFirst : Passes::middle(last0, last1);
    inStretches(a_.K, [&](int64_t i0, int64_t i1) { pass(D, a_.K * kBlock, i0, i1, rows, w, d); });
  }

  // d: what the pair's keys read. Leaves in w what the pair writes.
  template <int kBlocks>
  void reverseStep(int x, int64_t column, Vec* w, const Vec* d) {
    constexpr int kN = kBlocks * kVecs;
    const int s0 = 2 * x, s1 = s0 + 1;
    const bool two = s1 < c_;
    const Vec q1k1 = splat(dots_[x][0]), q0k0 = splat(dots_[x][1]), q1k0 = splat(dots_[x][2]),
              k1k0 = splat(dots_[x][3]);
    const float* dO0 = lastOfToken(s0) ? dO_ + s0 / n_ * Vp_ + column : zeroRow_;
    const float* dO1 = lastOfToken(s1) ? dO_ + s1 / n_ * Vp_ + column : zeroRow_;
    float* dv0 = a_.dv + (((start_ + t0_) * n_ + s0) * a_.HV + hv_) * a_.V + column;
    float* dv1 = dv0 + a_.HV * a_.V;
    const int64_t left = a_.V - column;
    const auto write = [&](float* to, int e, Vec value) __attribute__((always_inline)) {
      const int64_t here = left - e * kLanes;
      if (here >= kLanes)
        streamsValues_ ? streamStore(to + e * kLanes, value) : store(to + e * kLanes, value);
      else if (here > 0)
        storePart(to + e * kLanes, value, static_cast<int>(here));
    };
    const Vec unfold0 = splat(shrinkStep_[s0]), unfold1 = splat(two ? shrinkStep_[s1] : 0);
    if constexpr (Update::kDelta) {
      const Vec beta0 = splat(-beta_[s0]), beta1 = splat(two ? -beta_[s1] : 0);
      const float *r0 = residuals_ + s0 * Vp_ + column, *r1 = two ? r0 + Vp_ : zeroRow_;
      float *dp0 = dP_ + s0 * Vp_ + column, *dp1 = dp0 + Vp_;
      Vec db0 = load(dbeta_ + s0 * kLanes), db1 = two ? load(dbeta_ + s1 * kLanes) : zero();
#pragma GCC unroll 8
      for (int e = 0; e < kN; ++e) {
        const int64_t at = e * kLanes;
        const Vec g0 = load(dO0 + at), g1 = load(dO1 + at);
        const Vec du1 = fma(q1k1, g1, d[kN + e]), p1 = du1 * beta1;
        const Vec du0 = fma(k1k0, p1, fma(q0k0, g0, fma(q1k0, g1, d[e]))), p0 = du0 * beta0;
        w[e] = g0;
        w[kN + e] = g1;
        w[2 * kN + e] = p0;
        w[3 * kN + e] = p1;
        store(dp0 + at, p0);
        write(dv0, e, -p0 * unfold0);
        db0 = fma(du0, load(r0 + at), db0);
        if (two) {
          store(dp1 + at, p1);
          write(dv1, e, -p1 * unfold1);
          db1 = fma(du1, load(r1 + at), db1);
        }
      }
      store(dbeta_ + s0 * kLanes, db0);
      if (two) store(dbeta_ + s1 * kLanes, db1);
    } else {
#pragma GCC unroll 8
      for (int e = 0; e < kN; ++e) {
        const Vec g0 = load(dO0 + e * kLanes), g1 = load(dO1 + e * kLanes);
        w[e] = g0;
        w[kN + e] = g1;
        write(dv0, e, fma(q0k0, g0, fma(q1k0, g1, d[e])) * unfold0);
        if (two) write(dv1, e, fma(q1k1, g1, d[kN + e]) * unfold1);
      }
    }
  }

  // ---- products

  // XT = S0 [dO^T | dP^T]
  void stateProducts(const float* S0) {
    transposed(dO_, Vp_, ct_, Vp_, GT_, Xp_);
    if (Update::kDelta) transposed(dP_, Vp_, c_, Vp_, GT_ + half_, Xp_);
    product<kBlock>(a_.K, across(), {S0, 1, kBlock, blocks_, a_.K * kBlock}, GT_, Xp_, XT_, Xp_, false);
  }

  int64_t across() const { return half_ + (Update::kDelta ? cPad_ : 0); }

  // M[j] = [u_j . dO | u_j . dP], of each only reads that come after the write: a token's outputs after all its steps.
  void grams() {
    constexpr int R = 2 * kTileRows;
    for (int64_t j = 0; j < c_; j += R) {
      const int64_t rows = cPad_ - j < R ? cPad_ - j : R;
      const int64_t read = j / n_ / kLanes * kLanes, step = j / kLanes * kLanes;
      const auto part = [&](int64_t from, int64_t to) {
        product<1>(rows, to - from, {UT_ + j, Cp_, Vp_}, GT_ + from, Xp_, M_ + j * kGramLd + from, kGramLd, false);
      };
      if (Update::kDelta && step == 0) {
        part(read, across());
      } else {
        part(read, half_);
        if (Update::kDelta) part(half_ + step, across());
      }
    }
    for (int j = 0; j < c_; ++j) {
      clearLanes(M_ + j * kGramLd, j / n_);
      if (Update::kDelta) clearLanes(M_ + j * kGramLd + half_, j + 1);
    }
  }

  static void clearLanes(float* row, int count) {
    for (int x = 0; x < count; ++x) row[x] = 0;
  }

  // S0 as it is where the products can take its decay afterwards, which would overflow where a large state is about to
  // go; else with the decay of the piece's first token.
  const float* decayedState(const float* S0) {
    stateDecayed_ = kGated && leastGate_ < kMildGate;
    if (!stateDecayed_) return S0;
    for (int64_t j = 0; j < blocks_; ++j)
      for (int64_t i = 0; i < a_.K; ++i)
        for (int e = 0; e < kVecs; ++e) {
          const int64_t at = i * kBlock + e * kLanes;
          store(block(S_, j) + at, rescaled(load(block(S0, j) + at), gate_[i]));
        }
    return S_;
  }

  // X, Xk and Y by token and step; the first two with the decay of S0.
  void unpackProducts() {
    for (int64_t i = a_.K; i < Kp_; ++i) {
      std::memset(XT_ + i * Xp_, 0, Xp_ * sizeof(float));
      std::memset(YT_ + i * Cp_, 0, Cp_ * sizeof(float));
    }
    const auto decayed = [&](Vec x, int64_t i) __attribute__((always_inline)) {
      if constexpr (!kGated) return x;
      const Vec gate = load(gate_ + i);
      const Vec unfolded = x * load(unfold_ + i);
      return stateDecayed_ ? unfolded : select(gate == 0.0f, zero(), unfolded * gate);
    };
    transposed(XT_, Xp_, Kp_, ct_, X_, Kp_, decayed);
    if (Update::kDelta) transposed(XT_ + half_, Xp_, Kp_, c_, Xk_, Kp_, decayed);
    transposed(YT_, Cp_, Kp_, c_, Y_, Kp_);
  }

  // ---- gradients

  // out[i]: row i of S0, decayed to the piece's first token, times row i of D.
  void rowProducts(const float* S0, const float* D, float* out) {
    const bool whole = ct_ == 1;  // D is decayed already
    for (int64_t i = a_.K; i < Kp_; ++i) out[i] = 0;
    for (int64_t i = 0; i < a_.K; ++i) {
      Vec all = zero();
      for (int64_t j = 0; j < blocks_; ++j)
        for (int e = 0; e < kVecs; ++e) {
          const int64_t at = i * kBlock + e * kLanes;
          all = fma(load(block(S0, j) + at), load(block(D, j) + at), all);
        }
      out[i] = whole ? sum(all) : gate_[i] == 0 ? 0 : sum(all) * unfold_[i] * (stateDecayed_ ? 1 : gate_[i]);
    }
  }

  void gateGradient() {
    const GatePaths paths{ct_, n_, Kp_, q_, kRead_, writeKeys(), X_, Xk_, Y_, M_, M_ + half_, through_};
    if constexpr (kChannel) {
      gatePathSums<Update>(paths, dg_);
    } else {
      transposed(q_, Kp_, ct_, Kp_, XT_, Xp_);
      transposed(kRead_, Kp_, c_, Kp_, YT_, Cp_);
      const Scalars keys{YT_, Cp_, Kp_};
      product<1>(cPad_, half_, keys, XT_, Xp_, G_, kGramLd, false);
      if (Update::kDelta) product<1>(cPad_, cPad_, keys, YT_, Cp_, G_ + half_, kGramLd, false);
      gatePathTotals<Update>(paths, G_, half_, dg_);
    }
  }

  // Whether dg can go on from that of the token after the piece. What is not finite must not come from later tokens,
  // and rounding errors start anew now and then.
  bool gateStepsSuffice() {
    if (stepwise_ == 0 || leastGate_ < kMildGate || !finiteUpdates_ || a_.K < kFewestGateSums) return false;
    Vec check = zero();
    for (int64_t i = 0; i < (kChannel ? Kp_ : kLanes); i += kLanes) check = fma(zero(), load(dgNext_ + i), check);
    return sum(check) == 0;
  }

  // dg_ holds what each token adds.
  void addGateSteps() {
    if constexpr (kChannel) {
      for (int64_t i = 0; i < Kp_; i += kLanes) {
        Vec dg = load(dgNext_ + i);
        for (int t = ct_ - 1; t >= 0; --t) {
          dg += load(dg_ + t * Kp_ + i);
          store(dg_ + t * Kp_ + i, dg);
        }
      }
    } else {
      double dg = static_cast<double>(dgNext_[0]);
      for (int t = ct_ - 1; t >= 0; --t) {
        dg += static_cast<double>(dg_[t]);
        dg_[t] = static_cast<float>(dg);
      }
    }
  }

  void writeGateGradient(bool stepwise) {
    stepwise_ = stepwise ? stepwise_ - 1 : kGateSteps;
    for (int t = 0; t < ct_; ++t) {
      if constexpr (kChannel) {
        const float *row = dg_ + t * Kp_, *g = Gate::logDecays(rows_, t0_ + t);
        float* to = a_.dg + ((start_ + t0_ + t) * a_.HV + hv_) * a_.K;
        const int64_t whole = a_.K / kLanes * kLanes;
        for (int64_t i = 0; i < whole; i += kLanes)
          store(to + i, select(load(g + i) < kResetBelow, zero(), load(row + i)));
        for (int64_t i = whole; i < a_.K; ++i) to[i] = g[i] < kResetBelow ? 0.0f : row[i];
      } else {
        float dg = dg_[t];
        if (ct_ == 1 && !stepwise)
          for (int64_t i = 1; i < a_.K; ++i) dg += dg_[i];
        if (Gate::logDecay(rows_, t0_ + t) < kResetBelow) dg = 0;
        if (t == 0) dg_[0] = dg;
        if constexpr (std::is_same_v<Gate, HeadGate>)
          *dgHead_ += static_cast<double>(dg);
        else
          a_.dg[(start_ + t0_ + t) * a_.HV + hv_] = dg;
      }
    }
    if constexpr (kChannel) {
      for (int64_t i = 0; i < Kp_; i += kLanes)
        store(dgNext_ + i, select(load(gate_ + i) == 0.0f, zero(), load(dg_ + i)));
    } else {
      dgNext_[0] = dg_[0];
    }
  }

  // What steps of the piece owe each other; only the triangles that are not zero.
  void addInnerTerms() {
    constexpr int R = kTileRows;
    for (int t = 0; t < ct_; t += R) {
      const int inner = (t + R) * n_ < c_ ? (t + R) * n_ : c_;
      product<1>(R, Kp_, {M_ + t, kGramLd, inner}, writeKeys(), Kp_, X_ + t * Kp_, Kp_, true);
    }
    for (int s = 0; s < c_; s += R) {
      const int t = s / n_, inner = s + R < c_ ? s + R : c_;
      product<kGramLd>(R, Kp_, {M_ + s * kGramLd + t, 1, ct_ - t}, q_ + t * Kp_, Kp_, Y_ + s * Kp_, Kp_, true);
      if constexpr (Update::kDelta) {
        product<1>(R, Kp_, {M_ + half_ + s, kGramLd, inner}, writeKeys(), Kp_, Xk_ + s * Kp_, Kp_, true);
        product<kGramLd>(R, Kp_, {M_ + s * kGramLd + half_ + s, 1, c_ - s}, kRead_ + s * Kp_, Kp_, Y_ + s * Kp_, Kp_,
                         true);
      }
    }
  }

  // kGateSteps: leaves in dg_ what each token adds to the gates' gradients.
  template <bool kGateSteps>
  void writeGradients() {
    for (int t = 0; t < ct_; ++t) {
      float* row = dg_ + t * Kp_;
      Vec step = zero();
      writeRow(
          to_.dq + (t0_ + t) * to_.stride, [&](int64_t i) __attribute__((always_inline)) {
            const Vec x = load(X_ + t * Kp_ + i), q = load(q_ + t * Kp_ + i);
            if (kGateSteps && kChannel) store(row + i, x * q);
            if (kGateSteps && !kChannel) step = fma(x, q, step);
            return kChannel ? x * load(grow_ + t * Kp_ + i) : x;
          });
      for (int s = t * n_; s < (t + 1) * n_; ++s)
        writeRow(
            to_.dk + (firstStep() + s) * to_.stride, [&](int64_t i) __attribute__((always_inline)) {
              const Vec y = load(Y_ + s * Kp_ + i), x = Update::kDelta ? load(Xk_ + s * Kp_ + i) : zero();
              if (kGateSteps && kChannel) {
                const Vec without = fnma(load(kWrite_ + s * Kp_ + i), y, load(row + i));
                store(row + i, Update::kDelta ? fma(load(kRead_ + s * Kp_ + i), x, without) : without);
              }
              if (kGateSteps && !kChannel) step = fma(load(kRead_ + s * Kp_ + i), x - y, step);
              if (!kChannel) return Update::kDelta ? x + y : y;
              const Vec written = y * load(shrink_ + t * Kp_ + i);
              return Update::kDelta ? fma(load(grow_ + t * Kp_ + i), x, written) : written;
            });
      if (kGateSteps && !kChannel) dg_[t] = sum(step);
    }
  }

  template <class F>
  RANKONE_INLINE void writeRow(float* to, F&& value) const {
    const int64_t whole = a_.K / kLanes * kLanes;
    const int left = static_cast<int>(a_.K - whole);
    if (streamsKeys_) {
      for (int64_t i = 0; i < whole; i += kLanes) streamStore(to + i, value(i));
    } else {
      for (int64_t i = 0; i < whole; i += kLanes) store(to + i, value(i));
      if (left) storePart(to + whole, value(whole), left);
    }
  }

  const RecurrenceBackward& a_;
  const HeadRows& rows_;
  const int64_t start_, hv_, Kp_, Vp_, Tp_, Cp_, Xp_, blocks_;  // padded: rows, columns, tokens, steps, both
  const int n_;
  const bool streamsKeys_, streamsValues_;
  const KeyGradients to_;
  double* dgHead_;
  Scratch scratch_;
  float *q_, *kRead_, *kWrite_ = nullptr;  // [tokens or steps][Kp]: q+, k+, and k- where that is another
  float *dO_, *dP_;                        // [tokens or steps][Vp], times scale
  float *UT_, *GT_, *YT_, *XT_;            // [Vp][Cp] [Vp][Xp] [Kp][Cp] [Kp][Xp]
  float *X_, *Xk_, *Y_;                    // [tokens or steps][Kp]
  float *M_, *G_;                          // [steps][kGramLd]
  float *grow_, *shrink_;                  // e^c, e^-c: [tokens][Kp] per channel, else [tokens]
  float *growStep_, *shrinkStep_;          // [steps] of a gate per head or token, else 1
  float *beta_, *byU_;                     // [steps]
  float *gate_, *unfold_, *through_;       // [Kp] e^g of the first token, e^-c of it; paths through the whole piece
  float* S_ = nullptr;                     // S0, decayed
  float* dgNext_;                          // dg of the token after the piece: [Kp] per channel, else one
  float *dg_, *writes_, *dbeta_, *zeroRow_;
  float dots_[kMaxChunkSteps / 2 + 1][4];  // of a pair: q1.k1, q0.k0, q1.k0, k1.k0
  struct {
    const float *at, *end;
  } fetch_[2];
  int64_t fetchStep_ = 0;
  const float* before_ = nullptr;         // the state that the chunk before starts from
  const float* residuals_ = nullptr;      // of the piece's first step on
  int64_t t0_ = 0, half_ = 0, cPad_ = 0;  // tokens and steps in whole vectors
  float leastGate_ = 0;
  bool finiteUpdates_ = false, stateDecayed_ = false;
  int stepwise_ = 0;    // how many more pieces dg may go on from dgNext_
  int ct_ = 0, c_ = 0;  // tokens and steps of the piece at hand
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
