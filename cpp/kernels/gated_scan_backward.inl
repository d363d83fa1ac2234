// Reverse mode of the gated scans, one head at a time. With dS the gradient of the state after a token (for DPLR its
// output's share q dO^T included) and S' the state before it:
//
//     DPLR:    dq = S dO, dk = dS v, db = dS p, dv = dS^T k, dp = dS^T b, da = S' dp, dS <- diag(e^g) dS + a dp^T
//     RWKV-6:  dq = S' dO, dk = dS v, dv = dS^T k, dS <- diag(e^g) dS + q dO^T, and the bonus's share besides
//     dg = e^g rowsum(dS S')
//
// A first sweep leaves the states at the starts of chunks; going back, those of one chunk and some columns at a time
// are computed again. There they lie transposed, a column of the state along the vectors: the sums over columns, of
// which there are more, then need no sums over lanes. What a token does to dS waits for the token before, which reads
// the same state: one load of it and of dS serves ten multiply-adds. Limit: 17 an element of the state (RWKV-6: 10)
// with the forward in them. Memory: T / C states and T rows of p, with C from 16 on.
#include "kernels/gated_scan_reverse.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

inline int64_t scanChunk(int64_t T) {
  int64_t chunk = 16;
  while (chunk < 128 && T / chunk > 1024) chunk *= 2;
  return chunk;
}

class HeadScanBackward {
 public:
  HeadScanBackward(const GatedScanBackward& p, int64_t sequence, int64_t h)
      : p_(p),
        sequence_(sequence),
        h_(h),
        T_(p.length(sequence)),
        C_(scanChunk(T_)),
        chunks_((T_ + C_ - 1) / C_),
        ld_(paddedWidth(p.K)),
        blocks_(p.V),
        Vp_(blocks_.ld),
        size_(ld_ * Vp_),
        lowRank_(static_cast<bool>(p.a)),
        scratch_(alignFloats((chunks_ + 1) * size_) + alignFloats(lowRank_ ? (T_ + 1) * Vp_ : 0) +
                 alignFloats((C_ + 1) * ld_ * kScanBlock) + alignFloats(size_) + 3 * alignFloats(C_ * Vp_) +
                 alignFloats(C_ * kScanSums * ld_) + 2 * alignFloats(kScanBlock * kLanes) + alignFloats(kScanBlock) +
                 alignFloats(p.K)),
        starts_(scratch_.take((chunks_ + 1) * size_)),
        p0_(scratch_.take(lowRank_ ? (T_ + 1) * Vp_ : 0)),
        states_(scratch_.take((C_ + 1) * ld_ * kScanBlock)),
        dS_(scratch_.take(size_)),
        v_(scratch_.take(C_ * Vp_)),
        dO_(scratch_.take(C_ * Vp_)),
        dv_(scratch_.take(C_ * Vp_)),
        sums_(scratch_.take(C_ * kScanSums * ld_)),
        dvLanes_(scratch_.take(kScanBlock * kLanes)),
        dpLanes_(scratch_.take(kScanBlock * kLanes)),
        dp_(scratch_.take(kScanBlock)),
        u_(scratch_.take(p.K)) {
    // Those of columns beyond V are added up and not used.
    for (float* lanes : {dvLanes_, dpLanes_}) std::memset(lanes, 0, kScanBlock * kLanes * sizeof(float));
  }

  // dBonus: [K], this sequence's share; null without one.
  void run(double* dBonus) {
    ScanRows rows(p_, sequence_, h_, C_ + 1, p_.K < ld_);
    if (dBonus) widen(p_.bonus.data, p_.bonus.dtype, h_ * p_.K, p_.K, u_);
    for (int64_t i = 0; dBonus && i < p_.K; ++i) dBonus[i] = 0;
    forward(rows);
    endGradient();
    for (int64_t chunk = chunks_ - 1; chunk >= 0; --chunk) {
      if (stopped()) return;
      reverse(rows, chunk, dBonus);
    }
    startGradient();
  }

 private:
  bool stopped() const { return p_.cancel && p_.cancel->load(std::memory_order_relaxed); }
  int64_t row(int64_t t) const { return (p_.start(sequence_) + t) * p_.H + h_; }
  int64_t valueAt(int64_t t) const { return row(t) * p_.V; }
  int64_t keyAt(int64_t t) const { return row(t) * p_.K; }

  // Rows of [Vp]: the caller's own where they are that, else in `copy`.
  __attribute__((noinline)) RowSource takeValues(const FloatView& x, int64_t t0, int64_t count, float* copy) const {
    if (x.dtype == DType::F32 && p_.V == Vp_) return {static_cast<const float*>(x.data) + valueAt(t0), p_.H * p_.V};
    for (int64_t t = 0; t < count; ++t) {
      float* to = copy + t * Vp_;
      if (p_.V < Vp_) std::memset(to + Vp_ - kScanBlock, 0, kScanBlock * sizeof(float));
      widen(x.data, x.dtype, valueAt(t0 + t), p_.V, to);
    }
    return {copy, Vp_};
  }

  // The states at the chunks' starts, in blocks of columns, and p of every token.
  void forward(ScanRows& rows) {
    const int64_t K = p_.K;
    const float* initial = p_.initialState ? p_.initialState + p_.stateOffset(sequence_, h_) : nullptr;
    std::memset(starts_, 0, static_cast<size_t>(size_) * sizeof(float));
    for (int64_t b = 0; b < blocks_.count; ++b)
      takeColumns(initial, K, p_.V, b * kScanSpan, p_.V, blocks_.width(b), starts_ + b * kScanSpan * ld_);
    float* S = starts_;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk, S += size_) {
      if (stopped()) return;
      const int64_t t0 = chunk * C_, count = T_ - t0 < C_ ? T_ - t0 : C_, ahead = t0 + count < T_ ? 1 : 0;
      rows.ready(t0, count + ahead);
      values_ = takeValues(p_.v, t0, count, v_);
      std::memcpy(S + size_, S, static_cast<size_t>(size_) * sizeof(float));
      for (int64_t b = 0; b < blocks_.count; ++b) {
        const int64_t column = b * kScanSpan, width = blocks_.width(b);
        float* block = S + size_ + column * ld_;
        if (lowRank_ && t0 == 0) scanRead(block, width, K, rows.row(ScanRows::kA, 0), width, p0_ + column);
        for (int64_t t = 0; t < count; ++t) {
          ScanStep x{};
          x.k = rows.row(ScanRows::kK, t);
          x.gain = rows.gain(t);
          x.keep = rows.keep(t);
          x.g = rows.row(ScanRows::kG, t);
          x.v = values_.at(t) + column;
          if (lowRank_) {
            x.b = rows.row(ScanRows::kB, t);
            x.next = rows.row(ScanRows::kA, t + 1 < count + ahead ? t + 1 : t);
            x.p = p0_ + (t0 + t) * Vp_ + column;
            x.read = p0_ + (t0 + t + 1) * Vp_ + column;
          }
          if (b == 0 && t0 + C_ + t < T_) fetch(rows, t0 + C_ + t, false);
          scanToken({block, width, block, width}, K, x, width, lowRank_, rows.resets(t));
        }
      }
    }
  }

  // Token t closer: what is read of it, and in the reverse sweep what else is.
  __attribute__((noinline)) void fetch(const ScanRows& rows, int64_t t, bool reverse) const {
    rows.fetch(t);
    fetchRow(p_.v, valueAt(t), p_.V);
    if (reverse) fetchRow(p_.dO, valueAt(t), p_.V);
  }
  // And the gradients that are about to be written.
  __attribute__((noinline)) void fetchGradients(int64_t t) const {
    for (float* x : {p_.dq, p_.dk, p_.dg, p_.da, p_.db}) fetchRow(x, keyAt(t), p_.K);
    fetchRow(p_.dv, valueAt(t), p_.V);
  }

  void endGradient() {
    std::memset(dS_, 0, static_cast<size_t>(size_) * sizeof(float));
    const float* given = p_.dFinalState ? p_.dFinalState + p_.stateOffset(sequence_, h_) : nullptr;
    for (int64_t i = 0; given && i < p_.K; ++i)
      for (int64_t c = 0; c < p_.V; ++c) dS_[c * ld_ + i] = given[i * p_.V + c];
  }
  void startGradient() {
    float* to = p_.dInitialState ? p_.dInitialState + p_.stateOffset(sequence_, h_) : nullptr;
    for (int64_t i = 0; to && i < p_.K; ++i)
      for (int64_t c = 0; c < p_.V; ++c) to[i * p_.V + c] = dS_[c * ld_ + i];
  }

  // Token t of a chunk from t0 on, columns from c on.
  __attribute__((noinline)) ReverseStep stepOf(const ScanRows& rows, int64_t t0, int64_t t, int64_t c) {
    ReverseStep x{};
    x.ld = ld_;
    x.columns = kScanBlock < p_.V - c ? kScanBlock : p_.V - c;
    x.q = rows.row(ScanRows::kQ, t);
    x.k = rows.row(ScanRows::kK, t);
    x.v = values_.at(t) + c;
    x.dO = dO_ + t * Vp_ + c;
    x.gain = rows.gain(t);
    x.keep = rows.keep(t);
    x.dS = dS_ + c * ld_;
    x.sums = sums_ + t * kScanSums * ld_;
    x.dv = dvLanes_;
    x.dpSums = dpLanes_;
    if (lowRank_) {
      x.b = rows.row(ScanRows::kB, t);
      x.p = p0_ + (t0 + t) * Vp_ + c;
      x.dp = dp_;
    }
    return x;
  }

  void reverse(ScanRows& rows, int64_t chunk, double* dBonus) {
    const int64_t t0 = chunk * C_, count = T_ - t0 < C_ ? T_ - t0 : C_;
    rows.ready(t0, count);
    values_ = takeValues(p_.v, t0, count, v_);
    const RowSource dO = takeValues(p_.dO, t0, count, dO_);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t c = 0; c < Vp_; c += kLanes) store(dO_ + t * Vp_ + c, load(dO.at(t) + c) * p_.scale);
    std::memset(sums_, 0, static_cast<size_t>(count * kScanSums * ld_) * sizeof(float));
    for (int64_t c = 0; c < p_.V; c += kScanBlock) {
      recompute(rows, chunk, count, c);
      for (int64_t t = 0; t < count && c == 0; ++t) {
        if (t0 > t) fetch(rows, t0 - 1 - t, true);
        fetchGradients(t0 + t);
      }
      lowRank_ ? reverseLowRank(rows, t0, count, c) : reverseBonus(rows, t0, count, c);
    }
    for (int64_t t = 0; t < count; ++t) {
      std::memcpy(p_.dv + valueAt(t0 + t), dv_ + t * Vp_, static_cast<size_t>(p_.V) * sizeof(float));
      giveSums(rows, t0, t);
      if (dBonus) addBonus(rows, t0, t, dBonus);
    }
  }

  // The states between a chunk's tokens, columns from c on.
  __attribute__((noinline)) void recompute(const ScanRows& rows, int64_t chunk, int64_t count, int64_t c) {
    const int64_t b = c / kScanSpan, size = ld_ * kScanBlock;
    transposeBlock(starts_ + chunk * size_ + b * kScanSpan * ld_ + c % kScanSpan, blocks_.width(b), ld_, states_);
    for (int64_t t = 0; t + 1 < count + (lowRank_ ? 1 : 0); ++t) {
      const ReverseStep x = stepOf(rows, chunk * C_, t, c);
      const float* before = states_ + t * size;
      float* after = states_ + (t + 1) * size;
      if (rows.resets(t)) {
        std::memcpy(after, before, static_cast<size_t>(size) * sizeof(float));
        resetColumns(after, ld_, kScanBlock, rows.row(ScanRows::kG, t));
        before = after;
      }
      lowRank_ ? advanceColumns<true>(x, before, after) : advanceColumns<false>(x, before, after);
    }
  }

  void reverseLowRank(const ScanRows& rows, int64_t t0, int64_t count, int64_t c) {
    for (int64_t t = count; t >= 0; --t) {  // the state that token t finds, and t - 1 leaves
      ReverseStep x = stepOf(rows, t0, t > 0 ? t - 1 : 0, c);
      x.S = states_ + t * ld_ * kScanBlock;
      if (t < count) {
        x.gain = rows.gain(t);
        x.keep = rows.keep(t);
        x.a = rows.row(ScanRows::kA, t);
        x.decaySums = sums_ + t * kScanSums * ld_;
        if (rows.resets(t)) resetColumns(x.dS, ld_, x.columns, rows.row(ScanRows::kG, t));
      }
      t == count ? lowRankPass<false, true>(x) : t > 0 ? lowRankPass<true, true>(x) : lowRankPass<true, false>(x);
      if (t == 0) return;
      columnSums(dvLanes_, dv_ + (t - 1) * Vp_ + c);
      columnSums(dpLanes_, dp_);
    }
  }

  void reverseBonus(const ScanRows& rows, int64_t t0, int64_t count, int64_t c) {
    for (int64_t t = count - 1; t >= 0; --t) {
      ReverseStep x = stepOf(rows, t0, t, c);
      x.S = states_ + t * ld_ * kScanBlock;
      bonusPass(x);
      if (rows.resets(t)) resetColumns(x.dS, ld_, x.columns, rows.row(ScanRows::kG, t), x.q, x.dO);
      columnSums(dvLanes_, dv_ + t * Vp_ + c);
    }
  }

  // The sums of token t of the chunk from t0 on.
  __attribute__((noinline)) void giveSums(const ScanRows& rows, int64_t t0, int64_t t) {
    const float *from = sums_ + t * kScanSums * ld_, *g = rows.row(ScanRows::kG, t), *gain = rows.gain(t);
    const int32_t* keep = rows.keep(t);
    const int64_t at = keyAt(t0 + t);
    overVectors(p_.K, [&](int64_t i, int lanes) {
      put(p_.dq + at + i, load(from + kSumQ * ld_ + i), lanes);
      put(p_.dk + at + i, load(from + kSumK * ld_ + i), lanes);
      const Vec dg = reverseDecayed(load(from + kSumG * ld_ + i), load(gain + i), keptRows(keep + i));
      put(p_.dg + at + i, select(load(g + i) < kScanReset, zero(), dg), lanes);
      if (!lowRank_) return;
      put(p_.da + at + i, load(from + kSumA * ld_ + i), lanes);
      put(p_.db + at + i, load(from + kSumB * ld_ + i), lanes);
    });
  }

  // o has scale (q . (u k)) v beside what the state gave.
  __attribute__((noinline)) void addBonus(const ScanRows& rows, int64_t t0, int64_t t, double* dBonus) const {
    const float *q = rows.row(ScanRows::kQ, t), *k = rows.row(ScanRows::kK, t), *v = values_.at(t), *dO = dO_ + t * Vp_;
    float *dq = p_.dq + keyAt(t0 + t), *dk = p_.dk + keyAt(t0 + t), *dv = p_.dv + valueAt(t0 + t);
    const float own = bonusOf(q, k, u_, p_.K);
    Vec dots = zero();
    overVectors(p_.V, [&](int64_t c, int lanes) {
      const Vec d = load(dO + c);
      dots = fma(load(v + c), d, dots);
      put(dv + c, fma(d, splat(own), get(dv + c, lanes)), lanes);
    });
    const float by = sum(dots);
    overVectors(p_.K, [&](int64_t i, int lanes) {
      const Vec uBy = get(u_ + i, lanes) * by;
      put(dq + i, fma(uBy, load(k + i), get(dq + i, lanes)), lanes);
      put(dk + i, fma(uBy, load(q + i), get(dk + i, lanes)), lanes);
    });
    for (int64_t i = 0; i < p_.K; ++i) dBonus[i] += static_cast<double>(q[i]) * k[i] * by;
  }

  const GatedScanBackward& p_;
  const int64_t sequence_, h_, T_, C_, chunks_, ld_;
  const ScanBlocks blocks_;
  const int64_t Vp_, size_;  // of a whole state
  const bool lowRank_;
  Scratch scratch_;
  float *starts_, *p0_;   // [chunks + 1] states, [T + 1][Vp]
  float *states_, *dS_;   // [C + 1][kScanBlock][ld], [Vp][ld]
  float *v_, *dO_, *dv_;  // [C][Vp]
  RowSource values_;      // the chunk's
  float* sums_;           // [C][kScanSums][ld]
  float *dvLanes_, *dpLanes_, *dp_, *u_;
};

// From the gradients of what makeRwkv7() made to those of what it was given, for one row of K.
void rwkv7Gradients(const GatedScanBackward& p, int64_t row, float* a, float* b, float* g) {
  const int64_t at = row * p.K;
  widen(p.a.data, p.a.dtype, at, p.K, a);
  widen(p.b.data, p.b.dtype, at, p.K, b);
  widen(p.g.data, p.g.dtype, at, p.K, g);
  const double norm = ScanRows::removalNorm(a, p.K);
  const float by = static_cast<float>(1 / norm);
  // unit = a / |a|; da of the scan is that of -unit, db that of unit b.
  Vec sums = zero();
  overVectors(p.K, [&](int64_t i, int lanes) {
    const Vec unit = get(a + i, lanes) * by, dB = get(p.db + at + i, lanes), rate = get(b + i, lanes);
    const Vec dUnit = fma(dB, rate, -get(p.da + at + i, lanes));
    const Vec e = exp(-abs(get(g + i, lanes))), s = splat(1.0f) / (e + 1.0f);  // e s s: the sigmoid's slope
    put(p.db + at + i, dB * unit, lanes);
    put(p.da + at + i, dUnit, lanes);
    put(a + i, unit, lanes);
    put(p.dg + at + i, get(p.dg + at + i, lanes) * (e * s * s * kRwkvRate), lanes);
    sums = fma(dUnit, unit, sums);
  });
  const Vec share = splat(norm <= 1e-12 ? 0.0f : sum(sums));
  overVectors(p.K, [&](int64_t i, int lanes) {
    put(p.da + at + i, fnma(share, get(a + i, lanes), get(p.da + at + i, lanes)) * by, lanes);
  });
}

}  // namespace

void gatedScanBackward(const GatedScanBackward& p) {
  const int64_t heads = p.N * p.H;
  AlignedBuffer shares(p.dBonus ? static_cast<size_t>(heads * p.K) * sizeof(double) : 0);
  double* bonus = p.dBonus ? static_cast<double*>(shares.data()) : nullptr;
  const int64_t tokens = p.N > 0 ? p.B * p.T / p.N + 1 : 1;
  const Split s = splitWork(heads, tokens * p.K * p.V * 36);
  parallelFor(s.tasks, p.cancel, [&](int64_t task) {
    for (int64_t i = s.begin(task); i < s.end(task); ++i)
      HeadScanBackward(p, i / p.H, i % p.H).run(bonus ? bonus + i * p.K : nullptr);
  });
  for (int64_t i = 0; p.dBonus && i < p.H * p.K; ++i) {
    double total = 0;
    for (int64_t n = 0; n < p.N; ++n) total += bonus[n * p.H * p.K + i];
    p.dBonus[i] = static_cast<float>(total);
  }
  if (p.rule != ScanRule::Rwkv7) return;
  const int64_t rows = p.B * p.T * p.H;
  const Split split = splitWork(rows, p.K * 60);
  parallelFor(split.tasks, p.cancel, [&](int64_t task) {
    Scratch scratch(3 * alignFloats(p.K));
    float *a = scratch.take(p.K), *b = scratch.take(p.K), *g = scratch.take(p.K);
    for (int64_t row = split.begin(task); row < split.end(task); ++row) rwkv7Gradients(p, row, a, b, g);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
