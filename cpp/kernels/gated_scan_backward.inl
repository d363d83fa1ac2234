// Reverse mode of the gated scans, one head and one block of columns at a time. With dS the gradient of the state after
// a token (for DPLR its output's share q dO^T included) and S' the state before it:
//
//     DPLR:    dq = S dO, dk = dS v, db = dS p, dv = dS^T k, dp = dS^T b, da = S' dp, dS <- diag(e^g) dS + a dp^T
//     RWKV-6:  dq = S' dO, dk = dS v, dv = dS^T k, dS <- diag(e^g) dS + q dO^T, and the bonus's share besides
//     dg = e^g rowsum(dS S')
//
// A first sweep leaves the states at the starts of chunks; going back, those of one chunk at a time are computed again.
// There they lie transposed, a column of the state along the vectors: the sums over columns, of which there are more,
// then need no sums over lanes. Limit: 18 multiply-adds an element of the state (RWKV-6: 10) with the forward in them.
// Memory: T / C blocks of states and T rows of p, with C from 16 on.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kScanCols = 4;  // of the state, that share a sweep

inline int64_t scanChunk(int64_t T) {
  int64_t chunk = 16;
  while (chunk < 128 && T / chunk > 1024) chunk *= 2;
  return chunk;
}

// One token of a block in the transposed layout, [kScanBlock][ld].
struct ReverseStep {
  int64_t ld, columns;
  const float *q, *k, *a, *b, *gain, *g;  // [ld]
  const int32_t* keep;
  bool resets;
  const float *before, *after;  // the state
  float* dS;
  const float *v, *p, *dO;             // [kScanBlock]
  float *dq, *dk, *da, *db, *dg, *dv;  // sums over the columns, [ld]; dv [kScanBlock]
};

// S <- diag(e^g) S, where S is one vector of a column.
template <bool kReset>
RANKONE_INLINE Vec reverseDecayed(Vec s, Vec gain, IVec keep, IVec alive) {
  s = fma(s, gain, (Vec)((IVec)s & keep));
  return kReset ? (Vec)((IVec)s & alive) : s;
}
RANKONE_INLINE IVec aliveRows(const float* g) { return ~(IVec)(load(g) < splat(kScanReset)); }

template <bool kLowRank, bool kReset>
__attribute__((noinline)) void advanceColumns(const ReverseStep& x, float* after) {
  for (int64_t i = 0; i < x.ld; i += kLanes) {
    const Vec gain = load(x.gain + i), k = load(x.k + i), b = kLowRank ? load(x.b + i) : zero();
    const IVec keep = (IVec)load(reinterpret_cast<const float*>(x.keep) + i),
               alive = kReset ? aliveRows(x.g + i) : keep;
    for (int64_t c = 0; c < x.columns; ++c) {
      Vec s = reverseDecayed<kReset>(load(x.before + c * x.ld + i), gain, keep, alive);
      if (kLowRank) s = fma(b, splat(x.p[c]), s);
      store(after + c * x.ld + i, fma(k, splat(x.v[c]), s));
    }
  }
}

template <bool kReset>
__attribute__((noinline)) void reverseLowRank(const ReverseStep& x, int64_t c0) {
  const int64_t ld = x.ld;
  const float *before = x.before + c0 * ld, *after = x.after + c0 * ld;
  float* dS = x.dS + c0 * ld;
  Vec dv[kScanCols] = {}, dp[kScanCols] = {}, v[kScanCols], p[kScanCols], dO[kScanCols];
#pragma GCC unroll 4
  for (int c = 0; c < kScanCols; ++c) {
    v[c] = splat(x.v[c0 + c]);
    p[c] = splat(x.p[c0 + c]);
    dO[c] = splat(x.dO[c0 + c]);
  }
  for (int64_t i = 0; i < ld; i += kLanes) {
    const Vec q = load(x.q + i), k = load(x.k + i), b = load(x.b + i);
    Vec dq = load(x.dq + i), dk = load(x.dk + i), db = load(x.db + i), dg = load(x.dg + i);
#pragma GCC unroll 4
    for (int c = 0; c < kScanCols; ++c) {
      const Vec d = fma(q, dO[c], load(dS + c * ld + i));
      store(dS + c * ld + i, d);
      dq = fma(load(after + c * ld + i), dO[c], dq);
      dk = fma(d, v[c], dk);
      db = fma(d, p[c], db);
      dg = fma(d, load(before + c * ld + i), dg);
      dv[c] = fma(d, k, dv[c]);
      dp[c] = fma(d, b, dp[c]);
    }
    store(x.dq + i, dq);
    store(x.dk + i, dk);
    store(x.db + i, db);
    store(x.dg + i, dg);
  }
  float sumsOfP[kScanCols];
  sums(dv[0], dv[1], dv[2], dv[3], x.dv + c0);
  sums(dp[0], dp[1], dp[2], dp[3], sumsOfP);
#pragma GCC unroll 4
  for (int c = 0; c < kScanCols; ++c) dp[c] = splat(sumsOfP[c]);
  for (int64_t i = 0; i < ld; i += kLanes) {
    const Vec gain = load(x.gain + i), a = load(x.a + i);
    const IVec keep = (IVec)load(reinterpret_cast<const float*>(x.keep) + i),
               alive = kReset ? aliveRows(x.g + i) : keep;
    Vec da = load(x.da + i);
#pragma GCC unroll 4
    for (int c = 0; c < kScanCols; ++c) {
      da = fma(load(before + c * ld + i), dp[c], da);
      store(dS + c * ld + i, fma(a, dp[c], reverseDecayed<kReset>(load(dS + c * ld + i), gain, keep, alive)));
    }
    store(x.da + i, da);
  }
}

template <bool kReset>
__attribute__((noinline)) void reverseBonus(const ReverseStep& x, int64_t c0) {
  const int64_t ld = x.ld;
  const float* before = x.before + c0 * ld;
  float* dS = x.dS + c0 * ld;
  Vec dv[kScanCols] = {}, v[kScanCols], dO[kScanCols];
#pragma GCC unroll 4
  for (int c = 0; c < kScanCols; ++c) {
    v[c] = splat(x.v[c0 + c]);
    dO[c] = splat(x.dO[c0 + c]);
  }
  for (int64_t i = 0; i < ld; i += kLanes) {
    const Vec q = load(x.q + i), k = load(x.k + i), gain = load(x.gain + i);
    const IVec keep = (IVec)load(reinterpret_cast<const float*>(x.keep) + i),
               alive = kReset ? aliveRows(x.g + i) : keep;
    Vec dq = load(x.dq + i), dk = load(x.dk + i), dg = load(x.dg + i);
#pragma GCC unroll 4
    for (int c = 0; c < kScanCols; ++c) {
      const Vec d = load(dS + c * ld + i), s = load(before + c * ld + i);
      dk = fma(d, v[c], dk);
      dg = fma(d, s, dg);
      dq = fma(s, dO[c], dq);
      dv[c] = fma(d, k, dv[c]);
      store(dS + c * ld + i, fma(q, dO[c], reverseDecayed<kReset>(d, gain, keep, alive)));
    }
    store(x.dq + i, dq);
    store(x.dk + i, dk);
    store(x.dg + i, dg);
  }
  sums(dv[0], dv[1], dv[2], dv[3], x.dv + c0);
}

// [ld][kScanBlock] to [kScanBlock][ld].
inline void transposeBlock(const float* from, int64_t ld, float* to) {
  for (int64_t i = 0; i < ld; i += kLanes)
    for (int64_t c = 0; c < kScanBlock; c += kLanes) {
      Vec square[kLanes];
      for (int r = 0; r < kLanes; ++r) square[r] = load(from + (i + r) * kScanBlock + c);
      transpose(square);
      for (int r = 0; r < kLanes; ++r) store(to + (c + r) * ld + i, square[r]);
    }
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
        size_(ld_ * kScanBlock),
        lowRank_(static_cast<bool>(p.a)),
        scratch_(alignFloats((chunks_ + 1) * size_) + alignFloats(lowRank_ ? (T_ + 1) * kScanBlock : 0) +
                 alignFloats((C_ + 1) * size_) + alignFloats(size_) + 3 * alignFloats(C_ * kScanBlock) +
                 alignFloats(5 * ld_)),
        starts_(scratch_.take((chunks_ + 1) * size_)),
        p0_(scratch_.take(lowRank_ ? (T_ + 1) * kScanBlock : 0)),
        states_(scratch_.take((C_ + 1) * size_)),
        dS_(scratch_.take(size_)),
        v_(scratch_.take(C_ * kScanBlock)),
        dO_(scratch_.take(C_ * kScanBlock)),
        dv_(scratch_.take(C_ * kScanBlock)),
        sums_(scratch_.take(5 * ld_)) {}

  // dBonus: [K], this sequence's share; null without one.
  void run(double* dBonus) {
    ScanRows rows(p_, sequence_, h_, C_ + 1, true);
    for (c0_ = 0; c0_ < p_.V; c0_ += kScanBlock) {
      columns_ = p_.V - c0_ < kScanBlock ? p_.V - c0_ : kScanBlock;
      forward(rows);
      endGradient();
      for (int64_t chunk = chunks_ - 1; chunk >= 0; --chunk) {
        if (stopped()) return;
        reverse(rows, chunk);
      }
      startGradient();
    }
    if (dBonus) bonus(rows, dBonus);
  }

 private:
  bool stopped() const { return p_.cancel && p_.cancel->load(std::memory_order_relaxed); }
  int64_t valueAt(int64_t t) const { return ((p_.start(sequence_) + t) * p_.H + h_) * p_.V + c0_; }
  int64_t keyAt(int64_t t) const { return ((p_.start(sequence_) + t) * p_.H + h_) * p_.K; }

  void takeBlock(const FloatView& x, int64_t t0, int64_t count, float* to) {
    for (int64_t t = 0; t < count; ++t, to += kScanBlock) {
      if (columns_ < kScanBlock) std::memset(to, 0, kScanBlock * sizeof(float));
      widen(x.data, x.dtype, valueAt(t0 + t), columns_, to);
    }
  }

  // The states at the chunks' starts, [ld][kScanBlock] each, and p of every token.
  void forward(ScanRows& rows) {
    const int64_t K = p_.K;
    const float* initial = p_.initialState ? p_.initialState + p_.stateOffset(sequence_, h_) : nullptr;
    std::memset(starts_, 0, static_cast<size_t>(size_) * sizeof(float));
    takeColumns(initial, K, p_.V, c0_, p_.V, starts_);
    float* S = starts_;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk, S += size_) {
      if (stopped()) return;
      const int64_t t0 = chunk * C_, count = T_ - t0 < C_ ? T_ - t0 : C_, ahead = t0 + count < T_ ? 1 : 0;
      rows.ready(t0, count + ahead);
      takeBlock(p_.v, t0, count, v_);
      if (lowRank_ && t0 == 0) scanRead(S, K, rows.row(ScanRows::kA, 0), p0_);
      std::memcpy(S + size_, S, static_cast<size_t>(size_) * sizeof(float));
      for (int64_t t = 0; t < count; ++t) {
        ScanStep x{};
        x.k = rows.row(ScanRows::kK, t);
        x.gain = rows.gain(t);
        x.keep = rows.keep(t);
        x.g = rows.row(ScanRows::kG, t);
        x.v = v_ + t * kScanBlock;
        if (lowRank_) {
          x.b = rows.row(ScanRows::kB, t);
          x.next = rows.row(ScanRows::kA, t + 1 < count + ahead ? t + 1 : t);
          x.p = p0_ + (t0 + t) * kScanBlock;
          x.read = p0_ + (t0 + t + 1) * kScanBlock;
        }
        (rows.resets(t) ? scanPassOf<true> : scanPassOf<false>)(lowRank_, true, false)(S + size_, K, x);
      }
    }
  }

  void endGradient() {
    std::memset(dS_, 0, static_cast<size_t>(size_) * sizeof(float));
    const float* given = p_.dFinalState ? p_.dFinalState + p_.stateOffset(sequence_, h_) + c0_ : nullptr;
    for (int64_t i = 0; given && i < p_.K; ++i)
      for (int64_t c = 0; c < columns_; ++c) dS_[c * ld_ + i] = given[i * p_.V + c];
  }
  void startGradient() {
    float* to = p_.dInitialState ? p_.dInitialState + p_.stateOffset(sequence_, h_) + c0_ : nullptr;
    for (int64_t i = 0; to && i < p_.K; ++i)
      for (int64_t c = 0; c < columns_; ++c) to[i * p_.V + c] = dS_[c * ld_ + i];
  }

  ReverseStep stepOf(const ScanRows& rows, int64_t t0, int64_t t) {
    ReverseStep x{};
    x.ld = ld_;
    x.columns = roundUp(columns_, kScanCols);
    x.q = rows.row(ScanRows::kQ, t);
    x.k = rows.row(ScanRows::kK, t);
    x.g = rows.row(ScanRows::kG, t);
    x.gain = rows.gain(t);
    x.keep = rows.keep(t);
    x.resets = rows.resets(t);
    x.before = states_ + t * size_;
    x.after = states_ + (t + 1) * size_;
    x.dS = dS_;
    x.v = v_ + t * kScanBlock;
    x.dO = dO_ + t * kScanBlock;
    x.dv = dv_ + t * kScanBlock;
    x.dq = sums_;
    x.dk = sums_ + ld_;
    x.dg = sums_ + 2 * ld_;
    if (lowRank_) {
      x.a = rows.row(ScanRows::kA, t);
      x.b = rows.row(ScanRows::kB, t);
      x.p = p0_ + (t0 + t) * kScanBlock;
      x.da = sums_ + 3 * ld_;
      x.db = sums_ + 4 * ld_;
    }
    return x;
  }

  void reverse(ScanRows& rows, int64_t chunk) {
    const int64_t t0 = chunk * C_, count = T_ - t0 < C_ ? T_ - t0 : C_;
    rows.ready(t0, count);
    takeBlock(p_.v, t0, count, v_);
    takeBlock(p_.dO, t0, count, dO_);
    for (int64_t i = 0; i < count * kScanBlock; ++i) dO_[i] *= p_.scale;
    transposeBlock(starts_ + chunk * size_, ld_, states_);
    for (int64_t t = 0; t < count; ++t) {
      const ReverseStep x = stepOf(rows, t0, t);
      float* after = states_ + (t + 1) * size_;
      if (lowRank_)
        (x.resets ? advanceColumns<true, true> : advanceColumns<true, false>)(x, after);
      else
        (x.resets ? advanceColumns<false, true> : advanceColumns<false, false>)(x, after);
    }
    for (int64_t t = count - 1; t >= 0; --t) {
      const ReverseStep x = stepOf(rows, t0, t);
      std::memset(sums_, 0, static_cast<size_t>(5 * ld_) * sizeof(float));
      const auto sweep = lowRank_ ? (x.resets ? reverseLowRank<true> : reverseLowRank<false>)
                                  : (x.resets ? reverseBonus<true> : reverseBonus<false>);
      for (int64_t c = 0; c < columns_; c += kScanCols) sweep(x, c);
      giveSums(x, t0 + t);
    }
    for (int64_t t = 0; t < count; ++t)
      std::memcpy(p_.dv + valueAt(t0 + t), dv_ + t * kScanBlock, static_cast<size_t>(columns_) * sizeof(float));
  }

  // What the columns of a block have summed up, onto what those of the blocks before have.
  void giveSums(const ReverseStep& x, int64_t t) {
    const int64_t at = keyAt(t);
    const auto give = [&](float* to, const float* from) {
      overVectors(p_.K, [&](int64_t i, int lanes) {
        const Vec s = load(from + i);
        put(to + at + i, c0_ == 0 ? s : get(to + at + i, lanes) + s, lanes);
      });
    };
    overVectors(p_.K, [&](int64_t i, int) {
      const Vec g = load(x.g + i);
      store(x.dg + i, select(g < kScanReset, zero(), exp(g) * load(x.dg + i)));
    });
    give(p_.dq, x.dq);
    give(p_.dk, x.dk);
    give(p_.dg, x.dg);
    if (!lowRank_) return;
    give(p_.da, x.da);
    give(p_.db, x.db);
  }

  // o_t has scale (q . (u k)) v beside what the state gave.
  void bonus(ScanRows& rows, double* dBonus) {
    Scratch scratch(alignFloats(ld_) + 2 * alignFloats(p_.V));
    float *u = scratch.take(ld_), *v = scratch.take(p_.V), *dO = scratch.take(p_.V);
    widen(p_.bonus.data, p_.bonus.dtype, h_ * p_.K, p_.K, u);
    std::memset(u + p_.K, 0, static_cast<size_t>(ld_ - p_.K) * sizeof(float));
    for (int64_t i = 0; i < p_.K; ++i) dBonus[i] = 0;
    c0_ = 0;
    for (int64_t t0 = 0; t0 < T_; t0 += C_) {
      if (stopped()) return;
      const int64_t count = T_ - t0 < C_ ? T_ - t0 : C_;
      rows.ready(t0, count);
      for (int64_t t = 0; t < count; ++t) {
        const int64_t at = valueAt(t0 + t);
        widen(p_.v.data, p_.v.dtype, at, p_.V, v);
        widen(p_.dO.data, p_.dO.dtype, at, p_.V, dO);
        bonusToken(rows.row(ScanRows::kQ, t), rows.row(ScanRows::kK, t), u, v, dO, t0 + t, dBonus);
      }
    }
  }
  void bonusToken(const float* q, const float* k, const float* u, const float* v, const float* dO, int64_t t,
                  double* dBonus) {
    const float own = bonusOf(q, k, u, p_.K) * p_.scale;
    float *dq = p_.dq + keyAt(t), *dk = p_.dk + keyAt(t), *dv = p_.dv + valueAt(t);
    Vec dots = zero();
    overVectors(p_.V, [&](int64_t c, int lanes) {
      const Vec d = get(dO + c, lanes);
      dots = fma(get(v + c, lanes), d, dots);
      put(dv + c, fma(d, splat(own), get(dv + c, lanes)), lanes);
    });
    const float by = sum(dots) * p_.scale;
    overVectors(p_.K, [&](int64_t i, int lanes) {
      const Vec uBy = load(u + i) * by;
      put(dq + i, fma(uBy, load(k + i), get(dq + i, lanes)), lanes);
      put(dk + i, fma(uBy, load(q + i), get(dk + i, lanes)), lanes);
    });
    for (int64_t i = 0; i < p_.K; ++i) dBonus[i] += static_cast<double>(q[i]) * k[i] * by;
  }

  const GatedScanBackward& p_;
  const int64_t sequence_, h_, T_, C_, chunks_, ld_, size_;
  const bool lowRank_;
  Scratch scratch_;
  float *starts_, *p0_, *states_, *dS_, *v_, *dO_, *dv_, *sums_;
  int64_t c0_ = 0, columns_ = 0;
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
  double along = 0;
  overVectors(p.K, [&](int64_t i, int lanes) {
    const Vec unit = get(a + i, lanes) * by, dB = get(p.db + at + i, lanes), rate = get(b + i, lanes);
    const Vec dUnit = fma(dB, rate, -get(p.da + at + i, lanes)), s = sigmoid(get(g + i, lanes));
    put(p.db + at + i, dB * unit, lanes);
    put(p.da + at + i, dUnit, lanes);
    put(a + i, unit, lanes);
    put(p.dg + at + i, get(p.dg + at + i, lanes) * (s * sigmoid(-get(g + i, lanes)) * kRwkvRate), lanes);
  });
  for (int64_t i = 0; i < p.K; ++i) along += static_cast<double>(p.da[at + i]) * a[i];
  if (norm <= 1e-12) along = 0;
  const Vec share = splat(static_cast<float>(along));
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
