// Gradients of the recurrence grid, one value head at a time, in chunks from the last to the first.
//
// With c the log decay accumulated inside a chunk (zero at its first token, whose own gate stands outside),
// k+ = k e^c, q+ = q e^c, k- = k e^-c, and D~ = e^c dS, per step and in reverse:
//   D~ += q+ dO^T (a token's last step);  du = D~^T k-;  dv = beta du;  dp = -dv;  dbeta = du.r;  D~ += k+ dp^T
// where r = v - S^T k comes from the forward. Two steps share a pass over D~, as in the forward. Then, with S0 the
// chunk's first state after its first decay, DC the folded gradient at its end, u = beta r, M1 = dO u^T, M2 = dp u^T:
//   dq = e^c (S0 dO + sum_j M1 k-_j)          dk = e^c (S0 dp + sum_{j<s} M2 k-_j) + e^-c (DC u + sum M1 q+ + sum_{s>j}
//   M2 k+)
// and dg_t as the sum over all paths that cross t: from S0 or a write before t, to DC or a read at or after t. Every
// term is a product with its decay, so nothing cancels however strong the gates. A chunk splits before a token that is
// a reset or takes |c| beyond a limit; its inner start states are computed again from S0 and u. Memory: T/chunk states
// and one residual row per step. Accumulation float32. Sources: Yang et al. 2023 (chunkwise gated linear attention),
// Yang et al. 2024 (chunkwise delta rule).
#include "kernels/recurrence_head_scan.inl"
#include "kernels/recurrence_products.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// The second one holds where positive gates let states and gradients grow: their products with e^c must not overflow.
constexpr float kChunkFold = 50.0f, kGrowingChunkFold = 20.0f;
constexpr int kMaxChunkSteps = 32;

template <class Gate, class Update>
class HeadBackward {
  static constexpr bool kGated = !std::is_same_v<Gate, NoGate>;

 public:
  // dq, dk: this head's first rows, gradStride floats between tokens (or steps).
  HeadBackward(const RecurrenceBackward& a, int64_t sequence, int64_t hv, float* dq, float* dk, int64_t gradStride,
               double* dgHead)
      : a_(a),
        sequence_(sequence),
        T_(a.length(sequence)),
        start_(a.start(sequence)),
        hv_(hv),
        geometry_(savedGeometry(a.n, a.K, a.V)),
        C_(geometry_.chunkTokens * a.n),
        CT_(geometry_.chunkTokens),
        Kp_(roundUp(a.K, 16)),
        Vp_(roundUp(a.V, kBlock)),
        Cp_(roundUp(C_, 16)),
        Xp_(roundUp(CT_, 16) + (Update::kDelta ? Cp_ : 0)),
        blocks_(Vp_ / kBlock),
        dq_(dq),
        dk_(dk),
        gradStride_(gradStride),
        dgHead_(dgHead),
        scratch_(scratchFloats()),
        rows_(a, a.dO, sequence, hv, CT_, 0, a.V) {
    D_ = scratch_.take(blocks_ * a.K * kBlock);
    S_ = kGated ? scratch_.take(blocks_ * a.K * kBlock) : nullptr;
    dO_ = scratch_.take(CT_ * Vp_);
    U_ = scratch_.take(C_ * Vp_);
    dP_ = scratch_.take(C_ * Vp_);
    dV_ = scratch_.take(C_ * Vp_);
    qPlus_ = scratch_.take(CT_ * Kp_);
    kPlus_ = scratch_.take(C_ * Kp_);
    kMinus_ = scratch_.take(C_ * Kp_);
    grow_ = scratch_.take(Gate::kPerChannel ? CT_ * Kp_ : Cp_);
    shrink_ = scratch_.take(Gate::kPerChannel ? CT_ * Kp_ : Cp_);
    gate1_ = scratch_.take(Kp_);
    growEnd_ = scratch_.take(Kp_);
    sum_ = scratch_.take(Kp_);
    UT_ = scratch_.take(Vp_ * Cp_);
    GT_ = scratch_.take(Vp_ * Xp_);
    YT_ = scratch_.take(Kp_ * Cp_);
    XT_ = scratch_.take(Kp_ * Xp_);
    X_ = scratch_.take((CT_ + C_) * Kp_);
    Y_ = scratch_.take(C_ * Kp_);
    M1_ = scratch_.take(CT_ * Cp_);
    M2_ = scratch_.take(C_ * Cp_);
    dg_ = scratch_.take((CT_ + 1) * Kp_);
    writes_ = scratch_.take(blocks_ * 4 * kBlock);
    dbeta_ = scratch_.take(C_ * kLanes);
    zeroRow_ = scratch_.take(Kp_ + Vp_);
    std::memset(zeroRow_, 0, (Kp_ + Vp_) * sizeof(float));
  }

  void run() {
    const float *states = a_.savedStates, *residuals = a_.savedResiduals;
    AlignedBuffer own;
    const int64_t chunks = geometry_.chunks(T_), steps = T_ * a_.n;
    if (states) {
      states += geometry_.stateAt(a_, sequence_, hv_);
      if (residuals) residuals += geometry_.residualAt(a_, sequence_, hv_);
    } else {
      const size_t stateFloats = chunks * geometry_.stateFloats;
      own = AlignedBuffer((stateFloats + (Update::kDelta ? steps * geometry_.residualFloats : 0)) * sizeof(float));
      RecurrenceForward f{};
      static_cast<RecurrenceProblem&>(f) = a_;
      f.packTokens = CT_;
      f.savedStates = own.f32();
      f.savedResiduals = Update::kDelta ? own.f32() + stateFloats : nullptr;
      f.savedOneHead = true;
      HeadScan<Gate, Update>(f, sequence_, hv_, 0, blocks_).run();
      states = f.savedStates;
      residuals = f.savedResiduals;
    }
    for (int64_t j = 0; j < blocks_; ++j) {
      if (a_.dFinalState)
        loadBlock(a_.dFinalState + a_.stateOffset(sequence_, hv_), a_.K, a_.V, j, block(D_, j));
      else
        std::memset(block(D_, j), 0, a_.K * kBlock * sizeof(float));
    }
    fold_ = totalGrowth<Gate>(rows_, T_, a_.K, CT_) > 10 ? kGrowingChunkFold : kChunkFold;
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      if (a_.cancel && a_.cancel->load(std::memory_order_relaxed)) return;
      const int64_t t0 = chunk * CT_, t1 = T_ < t0 + CT_ ? T_ : t0 + CT_;
      rows_.prepare(t0, t1 - t0);
      runChunk(t0, t1, states + chunk * geometry_.stateFloats, residuals);
    }
    for (int64_t j = 0; j < blocks_ && a_.dInitialState; ++j)
      storeBlock(block(D_, j), a_.K, a_.V, j, a_.dInitialState + a_.stateOffset(sequence_, hv_));
  }

 private:
  size_t scratchFloats() const {
    const size_t gates = Gate::kPerChannel ? CT_ * Kp_ : Cp_;
    return (kGated ? 2 : 1) * blocks_ * a_.K * kBlock + CT_ * Vp_ + 3 * C_ * Vp_ + CT_ * Kp_ + 2 * C_ * Kp_ +
           2 * gates + 3 * Kp_ + Vp_ * (Cp_ + Xp_) + Kp_ * (Cp_ + Xp_) + (CT_ + 2 * C_) * Kp_ + (CT_ + C_) * Cp_ +
           (CT_ + 1) * Kp_ + blocks_ * 4 * kBlock + C_ * kLanes + Kp_ + Vp_ + 26 * 16;
  }

  const float* block(const float* state, int64_t j) const { return state + j * a_.K * kBlock; }
  float* block(float* state, int64_t j) const { return state + j * a_.K * kBlock; }
  Vec* writes(int64_t j) { return reinterpret_cast<Vec*>(writes_ + j * 4 * kBlock); }

  // ---- where a chunk splits

  // Tokens [t0, t1) from the state S0, pieces last to first.
  void runChunk(int64_t t0, int64_t t1, const float* S0, const float* residuals) {
    int64_t starts[kMaxChunkSteps + 1];
    int pieces = 0;
    for (int64_t t = t0; t < t1; t = pieceEnd(t, t1)) starts[pieces++] = t;
    starts[pieces] = t1;
    const size_t size = geometry_.stateFloats;
    if (pieces > 1) {
      if (inner_.bytes() == 0) inner_ = AlignedBuffer((CT_ - 1) * size * sizeof(float));
      for (int x = 1; x < pieces; ++x) {
        float* to = inner_.f32() + (x - 1) * size;
        std::memcpy(to, x == 1 ? S0 : to - size, size * sizeof(float));
        advanceState(to, starts[x - 1], starts[x], residuals);
      }
    }
    for (int x = pieces - 1; x >= 0; --x)
      runPiece(starts[x], starts[x + 1], x ? inner_.f32() + (x - 1) * size : S0, residuals);
  }

  int64_t pieceEnd(int64_t t0, int64_t t1) {
    if constexpr (!kGated) return t1;
    if constexpr (Gate::kPerChannel) {
      std::memset(sum_, 0, Kp_ * sizeof(float));
      for (int64_t t = t0 + 1; t < t1; ++t) {
        const float* g = Gate::logDecays(rows_, t);
        int32_t over = 0;
        for (int64_t i = 0; i < a_.K; ++i) {
          sum_[i] += g[i];
          over |= !(std::fabs(sum_[i]) <= fold_ && g[i] >= kResetBelow);
        }
        if (over) return t;
      }
    } else {
      double sum = 0;
      for (int64_t t = t0 + 1; t < t1; ++t) {
        const double g = Gate::logDecay(rows_, t);
        sum += g;
        if (!(std::fabs(sum) <= fold_ && g >= kResetBelow)) return t;
      }
    }
    return t1;
  }

  // S through tokens [t0, t1), its updates known: u = beta r.
  void advanceState(float* S, int64_t t0, int64_t t1, const float* residuals) {
    for (int64_t t = t0; t < t1; ++t) {
      decayRows<Gate>(rows_, t, a_.K, growEnd_);
      for (int64_t s = t * a_.n; s < (t + 1) * a_.n; ++s) {
        updateRow(s, residuals, dV_);
        const float* k = rows_.k(s);
        for (int64_t j = 0; j < blocks_; ++j)
          for (int64_t i = 0; i < a_.K; ++i)
            for (int e = 0; e < kVecs; ++e) {
              float* at = block(S, j) + i * kBlock + e * kLanes;
              const Vec before = s == t * a_.n ? rescaled(load(at), growEnd_[i]) : load(at);
              store(at, fma(splat(k[i]), load(dV_ + j * kBlock + e * kLanes), before));
            }
      }
    }
  }

  // u of step s, [Vp].
  void updateRow(int64_t s, const float* residuals, float* u) const {
    if constexpr (Update::kDelta) {
      const Vec beta = splat(rows_.beta(s));
      for (int64_t j = 0; j < Vp_; j += kLanes) store(u + j, beta * load(residuals + s * Vp_ + j));
    } else {
      copyPadded(rows_.v(s), a_.V, Vp_, u);
    }
  }

  static void copyPadded(const float* from, int64_t n, int64_t padded, float* to) {
    std::memcpy(to, from, n * sizeof(float));
    std::memset(to + n, 0, (padded - n) * sizeof(float));
  }

  // ---- one piece

  void runPiece(int64_t t0, int64_t t1, const float* S0, const float* residuals) {
    t0_ = t0;
    ct_ = static_cast<int>(t1 - t0);
    c_ = ct_ * static_cast<int>(a_.n);
    packDecays();
    packRows(residuals);
    const float* S = decayEnds(S0);
    // YT = DC U^T
    transposed(U_, Vp_, c_, Vp_, UT_, Cp_);
    product(a_.K, roundUp(c_, kLanes), {D_, kBlock, 1, kBlock, blocks_, a_.K * kBlock}, UT_, Cp_, YT_, Cp_, false);
    reverseScan(residuals);
    // XT = S0 [dO^T | dP^T]
    const int64_t half = roundUp(ct_, kLanes), across = half + (Update::kDelta ? roundUp(c_, kLanes) : 0);
    transposed(dO_, Vp_, ct_, Vp_, GT_, Xp_);
    if (Update::kDelta) transposed(dP_, Vp_, c_, Vp_, GT_ + half, Xp_);
    product(a_.K, across, {S, kBlock, 1, kBlock, blocks_, a_.K * kBlock}, GT_, Xp_, XT_, Xp_, false);
    for (int64_t i = a_.K; i < Kp_; ++i) {
      std::memset(XT_ + i * Xp_, 0, Xp_ * sizeof(float));
      std::memset(YT_ + i * Cp_, 0, Cp_ * sizeof(float));
    }
    transposed(XT_, Xp_, Kp_, ct_, X_, Kp_);
    if (Update::kDelta) transposed(XT_ + half, Xp_, Kp_, c_, X_ + CT_ * Kp_, Kp_);
    transposed(YT_, Cp_, Kp_, c_, Y_, Kp_);
    grams();
    if (kGated && (a_.dg || dgHead_)) {
      ct_ == 1 ? outerGateGradient(S0) : gateGradient();
      writeGateGradient();
    }
    addInnerTerms();
    writeGradients();
  }

  Vec growAt(int t, int64_t i) const { return Gate::kPerChannel ? load(grow_ + t * Kp_ + i) : splat(grow_[t]); }
  Vec shrinkAt(int t, int64_t i) const { return Gate::kPerChannel ? load(shrink_ + t * Kp_ + i) : splat(shrink_[t]); }

  void packDecays() {
    std::memset(gate1_, 0, Kp_ * sizeof(float));
    decayRows<Gate>(rows_, t0_, a_.K, gate1_);
    if constexpr (Gate::kPerChannel) {
      for (int64_t i = 0; i < Kp_; i += kLanes) {
        Vec c = zero(), rest = zero(), grow = splat(1), shrink = splat(1);
        const int n = static_cast<int>(a_.K - i < kLanes ? a_.K - i : kLanes);
        for (int t = 0; t < ct_; ++t) {
          if (t && n > 0) {
            addExactly(c, rest, loadPart(Gate::logDecays(rows_, t0_ + t) + i, n));
            expBoth(c, rest, grow, shrink);
          }
          store(grow_ + t * Kp_ + i, grow);
          store(shrink_ + t * Kp_ + i, shrink);
        }
        store(growEnd_ + i, grow);
      }
    } else {
      double c = 0;
      float low[kMaxChunkSteps + 16];
      for (int t = 0; t < ct_; ++t) {
        if (kGated && t) c += static_cast<double>(Gate::logDecay(rows_, t0_ + t));
        grow_[t] = static_cast<float>(c);
        low[t] = static_cast<float>(c - grow_[t]);
      }
      for (int t = ct_; t < roundUp(ct_, kLanes); ++t) grow_[t] = low[t] = 0;
      for (int t = 0; t < ct_; t += kLanes) {
        Vec grow, shrink;
        expBoth(load(grow_ + t), load(low + t), grow, shrink);
        store(grow_ + t, grow);
        store(shrink_ + t, shrink);
      }
      for (int64_t i = 0; i < Kp_; ++i) growEnd_[i] = grow_[ct_ - 1];
    }
  }

  void packRows(const float* residuals) {
    const int64_t whole = a_.K / kLanes * kLanes;
    const int left = static_cast<int>(a_.K - whole);
    const auto part = [&](const float* p, int64_t i) __attribute__((always_inline)) {
      return i < whole ? load(p + i) : left && i < whole + kLanes ? loadPart(p + i, left) : zero();
    };
    for (int t = 0; t < ct_; ++t) {
      const float* q = rows_.q(t0_ + t);
      for (int64_t i = 0; i < Kp_; i += kLanes) store(qPlus_ + t * Kp_ + i, part(q, i) * growAt(t, i));
      float* d = dO_ + t * Vp_;
      copyPadded(rows_.dO(t0_ + t), a_.V, Vp_, d);
      const float by =
          a_.outputScale ? a_.scale * a_.outputScale[(start_ + t0_ + t) * a_.H + a_.keyHead(hv_)] : a_.scale;
      for (int64_t j = 0; j < Vp_; j += kLanes) store(d + j, load(d + j) * by);
    }
    for (int s = 0; s < c_; ++s) {
      const int t = s / static_cast<int>(a_.n);
      const int64_t step = t0_ * a_.n + s;
      const float* k = rows_.k(step);
      for (int64_t i = 0; i < Kp_; i += kLanes) {
        const Vec x = part(k, i);
        store(kPlus_ + s * Kp_ + i, x * growAt(t, i));
        store(kMinus_ + s * Kp_ + i, x * shrinkAt(t, i));
      }
      updateRow(step, residuals, U_ + s * Vp_);
    }
  }

  // The first state takes its decay, the gradient at the piece's end becomes the folded one; for dg, row by row their
  // product. Returns the decayed state.
  const float* decayEnds(const float* S0) {
    if constexpr (!kGated) return S0;
    float* paths = dg_ + CT_ * Kp_;  // from S0 to DC
    std::memset(paths, 0, Kp_ * sizeof(float));
    for (int64_t i = 0; i < a_.K; ++i) {
      Vec dot = zero();
      const Vec by = splat(growEnd_[i]);
      for (int64_t j = 0; j < blocks_; ++j)
        for (int e = 0; e < kVecs; ++e) {
          const int64_t at = i * kBlock + e * kLanes;
          const Vec d = load(block(D_, j) + at), s = rescaled(load(block(S0, j) + at), gate1_[i]);
          dot = fma(d, s, dot);
          store(block(D_, j) + at, d * by);
          store(block(S_, j) + at, s);
        }
      paths[i] = growEnd_[i] * sum(dot);
    }
    return S_;
  }

  bool lastOfToken(int s) const { return s < c_ && s % a_.n == a_.n - 1; }
  const float* qPlusOf(int s) const { return lastOfToken(s) ? qPlus_ + s / a_.n * Kp_ : zeroRow_; }
  const float* rowOf(const float* rows, int s) const { return s < c_ ? rows + s * Kp_ : zeroRow_; }
  static float dot(const float* a, const float* b, int64_t n) {
    Vec s = zero();
    for (int64_t i = 0; i < n; i += kLanes) s = fma(load(a + i), load(b + i), s);
    return sum(s);
  }

  void runReversePass(float* D, int pending, int s, const Vec* w, Vec* d) {
    ReverseRows rows{};
    rows.r0 = rowOf(kMinus_, s);
    rows.r1 = rowOf(kMinus_, s + 1);
    using Pass = void (*)(float*, int64_t, int64_t, const ReverseRows&, const Vec*, Vec*);
    constexpr bool kKeys = Update::kDelta;
    Pass pass = reversePass<false, false, false, true>;
    if (pending < c_) {
      rows.q0 = qPlusOf(pending);
      rows.q1 = qPlusOf(pending + 1);
      rows.k0 = rowOf(kPlus_, pending);
      rows.k1 = rowOf(kPlus_, pending + 1);
      static constexpr Pass kPasses[] = {reversePass<false, false, kKeys, true>, reversePass<false, true, kKeys, true>,
                                         reversePass<true, false, kKeys, true>, reversePass<true, true, kKeys, true>,
                                         reversePass<true, true, kKeys, false>};
      pass = s < 0 ? kPasses[4] : kPasses[2 * lastOfToken(pending) + lastOfToken(pending + 1)];
    }
    if (s < 0) rows.r0 = rows.r1 = zeroRow_;
    inStretches(a_.K, [&](int64_t i0, int64_t i1) { pass(D, i0, i1, rows, w, d); });
  }

  // dp, dv and dbeta of all steps, D~ back to the piece's start and, decayed, to the state before it.
  void reverseScan(const float* residuals) {
    const int pairs = (c_ + 1) / 2;
    for (int x = 0; x < pairs; ++x) {
      const int s = 2 * x;
      const float *k0 = rowOf(kMinus_, s), *k1 = rowOf(kMinus_, s + 1), *q0 = qPlusOf(s), *q1 = qPlusOf(s + 1);
      dots_[x] = {dot(q1, k1, Kp_), dot(q0, k0, Kp_), dot(q1, k0, Kp_),
                  Update::kDelta ? dot(rowOf(kPlus_, s + 1), k0, Kp_) : 0};
    }
    if (Update::kDelta) std::memset(dbeta_, 0, C_ * kLanes * sizeof(float));
    for (int64_t j0 = 0; j0 < blocks_; j0 += 2) {
      for (int x = pairs - 1; x >= -1; --x)
        for (int64_t j = j0; j < blocks_ && j < j0 + 2; ++j) {
          Vec d[2 * kVecs] = {};
          runReversePass(block(D_, j), 2 * x + 2, 2 * x, writes(j), d);
          if (x >= 0) reverseStep(x, j, residuals, d);
        }
    }
    if constexpr (kGated)
      for (int64_t j = 0; j < blocks_; ++j)
        for (int64_t i = 0; i < a_.K; ++i)
          for (int e = 0; e < kVecs; ++e) {
            float* at = block(D_, j) + i * kBlock + e * kLanes;
            store(at, rescaled(load(at), gate1_[i]));
          }
  }

  void reverseStep(int x, int64_t j, const float* residuals, const Vec* d) {
    const int s0 = 2 * x, s1 = s0 + 1, n = static_cast<int>(a_.n);
    const bool two = s1 < c_;
    const auto& dots = dots_[x];
    const int64_t column = j * kBlock;
    const float* dO0 = lastOfToken(s0) ? dO_ + s0 / n * Vp_ + column : zeroRow_;
    const float* dO1 = lastOfToken(s1) ? dO_ + s1 / n * Vp_ + column : zeroRow_;
    Vec* w = writes(j);
    float beta0 = 1, beta1 = 1;
    const float *r0 = nullptr, *r1 = zeroRow_;
    if constexpr (Update::kDelta) {
      beta0 = rows_.beta(t0_ * n + s0);
      beta1 = two ? rows_.beta(t0_ * n + s1) : 0;
      r0 = residuals + (t0_ * n + s0) * Vp_ + column;
      if (two) r1 = r0 + Vp_;
    }
    for (int e = 0; e < kVecs; ++e) {
      const int64_t at = e * kLanes;
      const Vec g0 = load(dO0 + at), g1 = load(dO1 + at);
      const Vec du1 = fma(splat(dots.q1k1), g1, d[kVecs + e]), dv1 = du1 * beta1;
      Vec du0 = fma(splat(dots.q0k0), g0, fma(splat(dots.q1k0), g1, d[e]));
      if (Update::kDelta) du0 = fnma(splat(dots.k1k0), dv1, du0);
      const Vec dv0 = du0 * beta0;
      w[e] = g0;
      w[kVecs + e] = g1;
      store(dV_ + s0 * Vp_ + column + at, dv0);
      if (two) store(dV_ + s1 * Vp_ + column + at, dv1);
      if constexpr (Update::kDelta) {
        w[2 * kVecs + e] = -dv0;
        w[3 * kVecs + e] = two ? -dv1 : zero();
        store(dP_ + s0 * Vp_ + column + at, -dv0);
        if (two) store(dP_ + s1 * Vp_ + column + at, -dv1);
        float *b0 = dbeta_ + s0 * kLanes, *b1 = b0 + kLanes;
        store(b0, fma(du0, load(r0 + at), load(b0)));
        if (two) store(b1, fma(du1, load(r1 + at), load(b1)));
      }
    }
  }

  // M1[t][j] = dO_t . u_j for steps j up to t's last, M2[s][j] = dp_s . u_j for j < s; zero beyond.
  void grams() {
    const int64_t across = roundUp(c_, kLanes);
    const int n = static_cast<int>(a_.n);
    product(ct_, across, {dO_, Vp_, 1, Vp_}, UT_, Cp_, M1_, Cp_, false);
    for (int t = 0; t < ct_; ++t)
      for (int64_t j = (t + 1) * n; j < across; ++j) M1_[t * Cp_ + j] = 0;
    if constexpr (Update::kDelta) {
      product(c_, across, {dP_, Vp_, 1, Vp_}, UT_, Cp_, M2_, Cp_, false);
      for (int s = 0; s < c_; ++s)
        for (int64_t j = s; j < across; ++j) M2_[s * Cp_ + j] = 0;
    }
  }

  // A single token's gate stands outside of the piece: dg is the row's product of what it had and what it owes, and the
  // sum over paths, which n erasing steps of a small K can make cancel, is not needed. D_ is decayed already.
  void outerGateGradient(const float* S0) {
    std::memset(dg_, 0, Kp_ * sizeof(float));
    for (int64_t i = 0; i < a_.K; ++i) {
      Vec all = zero();
      for (int64_t j = 0; j < blocks_; ++j)
        for (int e = 0; e < kVecs; ++e) {
          const int64_t at = i * kBlock + e * kLanes;
          all = fma(load(block(S0, j) + at), load(block(D_, j) + at), all);
        }
      dg_[i] = sum(all);
    }
  }

  // dg[t][i]: all paths from before t to t or later. X and Y hold the paths from S0 and to DC, not yet the inner ones.
  void gateGradient() {
    const int n = static_cast<int>(a_.n);
    const float* Xk = X_ + CT_ * Kp_;
    const float* through = dg_ + CT_ * Kp_;
    for (int64_t i = 0; i < Kp_; i += kLanes) {
      Vec ends = load(through + i), total = zero();
      for (int t = ct_ - 1; t >= 0; --t) {  // from S0 to reads at or after t
        total = fma(load(qPlus_ + t * Kp_ + i), load(X_ + t * Kp_ + i), total);
        for (int s = t * n; s < (t + 1) * n && Update::kDelta; ++s)
          total = fma(load(kPlus_ + s * Kp_ + i), load(Xk + s * Kp_ + i), total);
        store(dg_ + t * Kp_ + i, total);
      }
      for (int t = 0; t < ct_; ++t) {  // from S0 and from writes before t to DC
        store(dg_ + t * Kp_ + i, load(dg_ + t * Kp_ + i) + ends);
        for (int s = t * n; s < (t + 1) * n; ++s) ends = fma(load(kMinus_ + s * Kp_ + i), load(Y_ + s * Kp_ + i), ends);
      }
      for (int j = 0; j < c_ - n; ++j) {  // from write j to reads of later tokens
        const Vec key = load(kMinus_ + j * Kp_ + i);
        Vec paths = zero();
        for (int t = ct_ - 1; t > j / n; --t) {
          Vec z = splat(M1_[t * Cp_ + j]) * load(qPlus_ + t * Kp_ + i);
          for (int s = t * n; s < (t + 1) * n && Update::kDelta; ++s)
            z = fma(splat(M2_[s * Cp_ + j]), load(kPlus_ + s * Kp_ + i), z);
          paths = fma(key, z, paths);
          store(dg_ + t * Kp_ + i, load(dg_ + t * Kp_ + i) + paths);
        }
      }
    }
  }

  void writeGateGradient() {
    for (int t = 0; t < ct_; ++t) {
      const float* row = dg_ + t * Kp_;
      if constexpr (Gate::kPerChannel) {
        const float* g = Gate::logDecays(rows_, t0_ + t);
        float* to = a_.dg + ((start_ + t0_ + t) * a_.HV + hv_) * a_.K;
        for (int64_t i = 0; i < a_.K; ++i) to[i] = g[i] < kResetBelow ? 0.0f : row[i];
      } else {
        Vec all = zero();
        for (int64_t i = 0; i < Kp_; i += kLanes) all += load(row + i);
        const float dg = Gate::logDecay(rows_, t0_ + t) < kResetBelow ? 0.0f : sum(all);
        if constexpr (std::is_same_v<Gate, HeadGate>)
          *dgHead_ += dg;
        else
          a_.dg[(start_ + t0_ + t) * a_.HV + hv_] = dg;
      }
    }
  }

  // What steps of the piece owe each other; only the triangles that are not zero.
  void addInnerTerms() {
    const int n = static_cast<int>(a_.n), R = kTileRows;
    float* Xk = X_ + CT_ * Kp_;
    for (int t = 0; t < ct_; t += R) {
      const int rows = ct_ - t < R ? ct_ - t : R;
      product(rows, Kp_, {M1_ + t * Cp_, Cp_, 1, (t + rows) * n}, kMinus_, Kp_, X_ + t * Kp_, Kp_, true);
    }
    for (int s = 0; s < c_; s += R) {
      const int rows = c_ - s < R ? c_ - s : R, t = s / n;
      product(rows, Kp_, {M1_ + t * Cp_ + s, 1, Cp_, ct_ - t}, qPlus_ + t * Kp_, Kp_, Y_ + s * Kp_, Kp_, true);
      if constexpr (Update::kDelta) {
        product(rows, Kp_, {M2_ + s * Cp_, Cp_, 1, s + rows}, kMinus_, Kp_, Xk + s * Kp_, Kp_, true);
        product(rows, Kp_, {M2_ + s * Cp_ + s, 1, Cp_, c_ - s}, kPlus_ + s * Kp_, Kp_, Y_ + s * Kp_, Kp_, true);
      }
    }
  }

  void writeGradients() {
    const int n = static_cast<int>(a_.n);
    const float* Xk = X_ + CT_ * Kp_;
    const auto write = [&](float* to, int64_t i, Vec x) __attribute__((always_inline)) {
      const int64_t left = a_.K - i;
      if (left >= kLanes)
        store(to + i, x);
      else if (left > 0)
        storePart(to + i, x, static_cast<int>(left));
    };
    for (int t = 0; t < ct_; ++t) {
      float* to = dq_ + (t0_ + t) * gradStride_;
      for (int64_t i = 0; i < Kp_; i += kLanes) write(to, i, growAt(t, i) * load(X_ + t * Kp_ + i));
      for (int s = t * n; s < (t + 1) * n; ++s) {
        const int64_t step = (start_ + t0_) * n + s;
        float* key = dk_ + (t0_ * n + s) * gradStride_;
        for (int64_t i = 0; i < Kp_; i += kLanes) {
          Vec x = shrinkAt(t, i) * load(Y_ + s * Kp_ + i);
          if (Update::kDelta) x = fma(growAt(t, i), load(Xk + s * Kp_ + i), x);
          write(key, i, x);
        }
        std::memcpy(a_.dv + (step * a_.HV + hv_) * a_.V, dV_ + s * Vp_, a_.V * sizeof(float));
        if (Update::kDelta && a_.dbeta) a_.dbeta[step * a_.HV + hv_] = sum(load(dbeta_ + s * kLanes));
      }
    }
  }

  struct PairDots {
    float q1k1, q0k0, q1k0, k1k0;
  };

  const RecurrenceBackward& a_;
  const int64_t sequence_, T_, start_, hv_;
  const SavedGeometry geometry_;
  const int64_t C_, CT_, Kp_, Vp_, Cp_, Xp_, blocks_;  // steps and tokens of a chunk; padded sizes
  float *dq_, *dk_;
  const int64_t gradStride_;
  double* dgHead_;
  Scratch scratch_;
  HeadRows rows_;
  float *D_, *S_;                          // [blocks][K][kBlock] gradient; first state, decayed
  float *dO_, *U_, *dP_, *dV_;             // [tokens or steps][Vp]; dO times scale
  float *qPlus_, *kPlus_, *kMinus_;        // [tokens or steps][Kp]
  float *grow_, *shrink_;                  // e^c, e^-c: [tokens][Kp] per channel, else [tokens]
  float *gate1_, *growEnd_, *sum_;         // [Kp] e^g of the first token, e^c of the last
  float *UT_, *GT_, *YT_, *XT_, *X_, *Y_;  // [Vp][Cp] [Vp][Xp] [Kp][Cp] [Kp][Xp] [tokens + steps][Kp] [steps][Kp]
  float *M1_, *M2_, *dg_;                  // [tokens][Cp] [steps][Cp] [tokens + 1][Kp]
  float *writes_, *dbeta_, *zeroRow_;
  PairDots dots_[kMaxChunkSteps / 2 + 1];
  AlignedBuffer inner_;
  float fold_ = kChunkFold;
  int64_t t0_ = 0;
  int ct_ = 0, c_ = 0;  // tokens and steps of the piece at hand
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
