// Forward of the recurrence grid in chunks of up to 32 updates, its large products on bf16 pairs with float32 sums.
//
// With c the log decay accumulated since a piece's start, k+ = k e^c, q+ = q e^c, k- = k e^-c (for a gate per head or
// token values and outputs take the factors up instead), S the state before the piece, in units of e^c:
//   L = strict-tril(beta K+ K-^T),  U = (I + L)^-1 beta (V - K+ S)         (additive: U = V)
//   O = scale (Q+ S + tril(Q+ K-^T) U),  S <- e^c (S + K-^T U)
// The state's master copy, decays, the solve inside 16 rows and all sums are float32; what enters a product is rounded
// to bf16 once, never a difference of rounded terms. A piece ends before a token whose gate is strong or takes |c|
// beyond a limit; such a gate is applied to the float32 state, and pieces of a few updates run in float32 altogether.
// Error: about 3e-3 of o's norm, dominated by one rounding (2^-9 at most) of q, k, S, U each. Where a folded value left
// float32 or an input is not finite, the block's columns are computed again by the float32 scan.
// Sources: Yang et al. 2023 (chunkwise gated linear attention), Yang et al. 2024 (chunkwise delta rule).
#include "kernels/recurrence_bf16_tiles.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr float kBf16FoldLimit = 60.0f;
// Decaying or erased, a state forgets its rounding. One that grows by more than e carries it on, and is left to
// float32.
constexpr double kMostGrowth = 1;
constexpr int kManyPieces = 5;  // so many to a chunk, and the float32 scan is faster
constexpr int kBf16Steps = 32;  // updates in a chunk
constexpr int kFewSteps = 6;    // pieces of at most this many run in float32
constexpr int kFewTokens = 4;   // and sequences of at most this many; their outputs may well be small by chance

// One sequence and value head, column blocks [block0, block1). A column's bits do not depend on the others'.
template <class Gate, class Update>
class HeadChunks {
  static constexpr bool kGated = !std::is_same_v<Gate, NoGate>;
  static constexpr bool kDelta = Update::kDelta;

 public:
  HeadChunks(const RecurrenceForward& a, int64_t sequence, int64_t hv, int64_t block0, int64_t block1)
      : a_(a),
        sequence_(sequence),
        hv_(hv),
        T_(a.length(sequence)),
        start_(a.start(sequence)),
        block0_(block0),
        blocks_(block1 - block0),
        n_(static_cast<int>(a.n)),
        tokens_(chunkTokens(a)),
        Kp_(roundUp(a.K, 2 * kLanes)),
        scratch_(scratchFloats()),
        rows_(a, FloatView(), sequence, hv, tokens_, block0 * kBlock, block1 * kBlock) {
    state_ = scratch_.take(blocks_ * Kp_ * kBlock);
    copy_ = takePairs(blocks_ * Kp_ / 2 * kBlock);
    reads_ = takePairs(2 * kBf16Steps * Kp_ / 2);
    writes_ = Gate::kPerChannel ? takePairs(kBf16Steps * Kp_ / 2) : reads_;
    writesAcross_ = takePairs(kBf16Steps / 2 * Kp_);
    keysDown_ = takePairs(Kp_ / 2 * kBf16Steps);
    U_ = takePairs(kBf16Steps / 2 * kBlock);
    L_ = takePairs(kBf16Steps * kBf16Steps / 2);
    M_ = takePairs(kBf16Steps * kBf16Steps / 2);
    gram_ = scratch_.take(2 * kBf16Steps * kBf16Steps);
    products_ = scratch_.take(2 * kBf16Steps * kBlock);
    decay_ = scratch_.take(Kp_);
    row_ = scratch_.take(Kp_);
    overflow_ = reinterpret_cast<Vec*>(scratch_.take(blocks_ * kLanes));
  }

  void run() {
    start();
    for (int64_t t0 = 0; t0 < T_; t0 += tokens_) {
      const int64_t t1 = T_ < t0 + tokens_ ? T_ : t0 + tokens_;
      rows_.prepare(t0, t1 - t0);
      if (grows(t0, t1) || shattered_) break;
      pieces_ -= kManyPieces;
      for (t0_ = t0; t0_ < t1; t0_ += ct_) runPiece(t1);
      shattered_ = pieces_ > kManyPieces;
      if (a_.cancel && a_.cancel->load(std::memory_order_relaxed)) return;
    }
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t column = (block0_ + b) * kBlock;
      for (int64_t i = 0; i < a_.K * kBlock; i += kLanes) overflow_[b] = fma(zero(), load(block(b) + i), overflow_[b]);
      if (growth_ > kMostGrowth || shattered_ || std::isnan(sum(overflow_[b])))
        recurrenceScanColumns(a_, sequence_, hv_, column, column + kBlock);
      else if (a_.finalState)
        storeBlock(block(b), a_.K, a_.V, block0_ + b, a_.finalState + a_.stateOffset(sequence_, hv_));
    }
  }

 private:
  static int64_t chunkTokens(const RecurrenceForward& a) {
    const int64_t most = kBf16Steps / a.n;
    return a.packTokens < most ? a.packTokens : most;
  }

  size_t scratchFloats() const {
    return blocks_ * Kp_ * kBlock * 3 / 2 + kBf16Steps * Kp_ * 3 + kBf16Steps * kBlock * 5 / 2 +
           3 * kBf16Steps * kBf16Steps + 2 * Kp_ + blocks_ * kLanes + 16 * 16;
  }
  Pair32* takePairs(size_t count) { return reinterpret_cast<Pair32*>(scratch_.take(count)); }

  float* block(int64_t b) const { return state_ + b * Kp_ * kBlock; }
  Pair32* copyOf(int64_t b) const { return copy_ + b * Kp_ / 2 * kBlock; }
  float* reads(int row) const { return products_ + row * kBlock; }

  void start() {
    for (int64_t b = 0; b < blocks_; ++b) {
      overflow_[b] = zero();
      std::memset(block(b), 0, Kp_ * kBlock * sizeof(float));
      if (a_.initialState)
        loadBlock(a_.initialState + a_.stateOffset(sequence_, hv_), a_.K, a_.V, block0_ + b, block(b));
    }
    std::memset(row_, 0, Kp_ * sizeof(float));
    stale_ = true;
  }

  // ---- where a chunk splits

  // Whether log gates above zero let the state grow too much in tokens before t1.
  bool grows(int64_t t0, int64_t t1) {
    if constexpr (!kGated) return false;
    for (int64_t t = t0; t < t1; ++t) {
      if constexpr (Gate::kPerChannel) {
        const float* g = Gate::logDecays(rows_, t);
        Vec most = zero();
        for (int64_t i = 0; i < a_.K; i += kLanes) {
          const int64_t left = a_.K - i;
          const Vec x = left >= kLanes ? load(g + i) : loadPart(g + i, static_cast<int>(left));
          most = select(x > most, x, most);
        }
        if (any(most > 0.0f)) growth_ += static_cast<double>(largest(most));
      } else {
        const float g = Gate::logDecay(rows_, t);
        if (g > 0) growth_ += static_cast<double>(g);
      }
    }
    return growth_ > kMostGrowth;
  }

  static bool any(IVec mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }

  void runPiece(int64_t t1) {
    ++pieces_;
    ct_ = static_cast<int>(pieceEnd(t1) - t0_);
    c_ = ct_ * n_;
    if (c_ <= kFewSteps) {
      for (int t = 0; t < ct_; ++t) runToken(t0_ + t);
      stale_ = true;
      return;
    }
    if (strongStart_) {
      decayRows<Gate>(rows_, t0_, a_.K, decay_);
      for (int64_t b = 0; b < blocks_; ++b) decayBlock(b);
      stale_ = true;
    }
    if (stale_)
      for (int64_t b = 0; b < blocks_; ++b) copyBlock(b);
    stale_ = false;
    pack();
    for (int64_t b = 0; b < blocks_; ++b) {
      prefetchNext(b);
      runBlock(b);
    }
  }

  // The piece from t0_ on; strongStart_: its first gate is applied to the state, not folded.
  int64_t pieceEnd(int64_t t1) {
    strongStart_ = false;
    if constexpr (!kGated) return t1;
    const auto within = [](float x) { return std::fabs(x) <= kBf16FoldLimit; };
    if constexpr (Gate::kPerChannel) {
      float* sum = decay_;
      const int64_t whole = a_.K / kLanes * kLanes;
      const int left = static_cast<int>(a_.K - whole);
      for (int64_t t = t0_; t < t1; ++t) {
        const float* g = Gate::logDecays(rows_, t);
        IVec over{};
        for (int64_t i = 0; i < a_.K; i += kLanes) {
          const Vec x = i < whole ? load(g + i) : loadPart(g + i, left);
          const Vec total = t == t0_ ? x : load(sum + i) + x;
          over |= ~(abs(total) <= kBf16FoldLimit) | ~(abs(x) <= kBf16FoldLimit);
          store(sum + i, total);
        }
        if (!any(over)) continue;
        if (t > t0_) return t;
        strongStart_ = true;
        std::memset(sum, 0, Kp_ * sizeof(float));
      }
    } else {
      double sum = 0;
      for (int64_t t = t0_; t < t1; ++t) {
        const float g = Gate::logDecay(rows_, t);
        sum += static_cast<double>(g);
        if (within(g) && within(static_cast<float>(sum))) continue;
        if (t > t0_) return t;
        strongStart_ = true;
        sum = 0;
      }
    }
    return t1;
  }

  void decayBlock(int64_t b) {
    for (int64_t i = 0; i < a_.K; ++i)
      for (int e = 0; e < kVecs; ++e) {
        float* at = block(b) + i * kBlock + e * kLanes;
        store(at, decay_[i] == 0.0f ? zero() : load(at) * splat(decay_[i]));
      }
  }

  void copyBlock(int64_t b) {
    for (int64_t i = 0; i < Kp_; i += 2)
      for (int e = 0; e < kVecs; ++e) {
        const float* at = block(b) + i * kBlock + e * kLanes;
        storePairs(copyOf(b) + i / 2 * kBlock + e * kLanes, pairsAcross(load(at), load(at + kBlock)));
      }
  }

  void prefetchNext(int64_t b) const {
    if (a_.o) {
      const int64_t size = static_cast<int64_t>(dtypeSize(a_.oDType));
      char* o = static_cast<char*>(a_.o) + (((start_ + t0_) * a_.HV + hv_) * a_.V + (block0_ + b) * kBlock) * size;
      for (int t = 0; t < ct_; ++t, o += a_.HV * a_.V * size) {
        __builtin_prefetch(o, 1, 3);
        if (size == 4) __builtin_prefetch(o + 64, 1, 3);
      }
    }
    const int64_t from = c_ * b / blocks_, to = c_ * (b + 1) / blocks_;
    for (int64_t s = from; s < to; ++s) {
      const int64_t t = t0_ + ct_ + s / n_;
      if (t < T_) rows_.prefetchStep(t * n_ + s % n_, t);
    }
  }

  // ---- what all columns share

  int lastStep(int t) const { return t * n_ + n_ - 1; }

  void pack() {
    cp_ = static_cast<int>(roundUp(c_, 16));
    qp_ = a_.o ? static_cast<int>(roundUp(ct_, kPairRows)) : 0;
    packFactors();
    for (int64_t i = 0; i < Kp_; i += 2 * kLanes) packRows(i);
    const int64_t across = Kp_ / 2;
    for (int s = 0; s < c_; s += 2)
      for (int64_t p = 0; p < across; p += kLanes) {
        const Pair32* at = writes_ + s * across + p;
        Vec first, second;
        pairsOfRows(loadPairs(at), loadPairs(at + across), first, second);
        storePairs(writesAcross_ + s / 2 * Kp_ + 2 * p, first);
        storePairs(writesAcross_ + s / 2 * Kp_ + 2 * p + kLanes, second);
      }
    if (kDelta || qp_) packGram();
  }

  // Per token or step: what values and outputs are multiplied by.
  void packFactors() {
    float* high = outBy_;
    float low[kBf16Steps], shrink[kBf16Steps];
    double c = 0;
    for (int t = 0; t < kBf16Steps; ++t) {
      if constexpr (kGated && !Gate::kPerChannel)
        if (t < ct_ && !(t == 0 && strongStart_)) c += static_cast<double>(Gate::logDecay(rows_, t0_ + t));
      high[t] = static_cast<float>(c);
      low[t] = static_cast<float>(c - high[t]);
    }
    for (int t = 0; t < kBf16Steps; t += kLanes) {
      Vec grow, by;
      expBoth(load(high + t), load(low + t), grow, by);
      store(high + t, grow);
      store(shrink + t, by);
    }
    if constexpr (kGated && !Gate::kPerChannel)
      for (int64_t i = 0; i < Kp_; i += kLanes) store(decay_ + i, splat(outBy_[ct_ - 1]));
    for (int s = 0; s < c_; ++s) {
      beta_[s] = kDelta ? rows_.beta(t0_ * n_ + s) : 1.0f;
      valueBy_[s] = beta_[s] * shrink[n_ == 1 ? s : s / n_];
    }
    for (int t = 0; t < ct_; ++t) outBy_[t] *= outputScale(t0_ + t);
  }

  float outputScale(int64_t t) const {
    return a_.outputScale ? a_.scale * a_.outputScale[(start_ + t) * a_.H + a_.keyHead(hv_)] : a_.scale;
  }

  // Channels [i, i + 32) of the piece's keys and queries.
  void packRows(int64_t i) {
    const auto part = [&](const float* p, int64_t at) __attribute__((always_inline)) {
      const int64_t left = a_.K - at;
      return left >= kLanes ? load(p + at) : left > 0 ? loadPart(p + at, static_cast<int>(left)) : zero();
    };
    const int64_t across = Kp_ / 2, to = i / 2, j = i + kLanes;
    Vec c0 = zero(), rest0 = zero(), c1 = zero(), rest1 = zero();
    Vec grow0 = splat(1), shrink0 = splat(1), grow1 = splat(1), shrink1 = splat(1);
    for (int t = 0, s = 0; t < ct_; ++t) {
      if constexpr (Gate::kPerChannel)
        if (t || !strongStart_) {
          const float* g = Gate::logDecays(rows_, t0_ + t);
          addExactly(c0, rest0, part(g, i));
          addExactly(c1, rest1, part(g, j));
          expBoth(c0, rest0, grow0, shrink0);
          expBoth(c1, rest1, grow1, shrink1);
        }
      if (qp_) {
        const float* q = rows_.q(t0_ + t);
        storePairs(reads_ + (cp_ + t) * across + to, pairsAlong(part(q, i) * grow0, part(q, j) * grow1));
      }
      for (; s < (t + 1) * n_; ++s) {
        const float* k = rows_.k(t0_ * n_ + s);
        const Vec x = part(k, i), y = part(k, j);
        if (kDelta || !Gate::kPerChannel) storePairs(reads_ + s * across + to, pairsAlong(x * grow0, y * grow1));
        if (Gate::kPerChannel) storePairs(writes_ + s * across + to, pairsAlong(x * shrink0, y * shrink1));
      }
    }
    if constexpr (Gate::kPerChannel) {
      store(decay_ + i, grow0);
      store(decay_ + j, grow1);
    }
    for (int s = c_; s < cp_; ++s) {
      storePairs(reads_ + s * across + to, zero());
      storePairs(writes_ + s * across + to, zero());
    }
    for (int t = ct_; t < qp_; ++t) storePairs(reads_ + (cp_ + t) * across + to, zero());
  }

  // L and M = tril(Q+ K-^T), as pairs along the steps.
  void packGram() {
    const int64_t across = Kp_ / 2, pairs = (a_.K + 1) / 2;
    transposePairs(writes_, across, cp_, across, keysDown_, kBf16Steps);
    const auto rows = [&](int row, int count, bool both) {
      float* to = gram_ + row * kBf16Steps;
      const PairScalars A{reads_ + row * across, across, 1, pairs};
      if (both)
        pairTile<kPairRows, 2, Into::Set>(A, keysDown_, kBf16Steps, to, kBf16Steps);
      else if (count == 16)
        pairTile<16, 1, Into::Set>(A, keysDown_, kBf16Steps, to, kBf16Steps);
      else
        pairTile<kPairRows, 1, Into::Set>(A, keysDown_, kBf16Steps, to, kBf16Steps);
    };
    if (kDelta) {
      rows(0, 16, false);
      for (int s = 16; s < cp_; s += kPairRows) rows(s, kPairRows, true);
      for (int s = 1; s < c_; ++s)
        for (int j = 0; j < s; j += kLanes) {
          float* at = gram_ + s * kBf16Steps + j;
          store(at, load(at) * splat(beta_[s]));
          storeHalves(L_, s, j, load(at));
        }
      for (int s = c_; s < cp_; ++s)
        for (int j = 0; j < cp_; j += kLanes) {
          store(gram_ + s * kBf16Steps + j, zero());
          storeHalves(L_, s, j, zero());
        }
    }
    for (int t = 0; t < qp_;) {
      const bool both = lastStep(t + kPairRows - 1) >= 16 && cp_ > 16;
      const int count = !both && t + 16 <= qp_ && (lastStep(t + 15) < 16 || cp_ == 16) ? 16 : kPairRows;
      rows(cp_ + t, count, both);
      t += count;
    }
    for (int t = 0; t < qp_; ++t)
      for (int j = 0; j < cp_; j += kLanes) {
        const int reach = lastStep(t) - j + 1;
        const __mmask16 mask = static_cast<__mmask16>(reach >= kLanes ? 0xffff : reach > 0 ? (1 << reach) - 1 : 0);
        storeHalves(M_, t, j, _mm512_maskz_loadu_ps(mask, gram_ + (cp_ + t) * kBf16Steps + j));
      }
  }

  static void storeHalves(Pair32* matrix, int row, int column, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(matrix + (row * kBf16Steps + column) / 2),
                        (__m256i)_mm512_cvtneps_pbh(x));
  }

  // ---- one block of columns

  void runBlock(int64_t b) {
    const int64_t across = Kp_ / 2, pairs = (a_.K + 1) / 2;
    const Pair32* copy = copyOf(b);
    for (int row = kDelta ? 0 : cp_; row < cp_ + qp_; row += kPairRows)
      pairTile<kPairRows, kVecs, Into::Set>({reads_ + row * across, across, 1, pairs}, copy, kBlock, reads(row),
                                            kBlock);
    takeValues(b);
    for (int s = 0; s < cp_; s += 16) {
      if constexpr (kDelta) {
        for (int row = s; row < s + 16 && s; row += kPairRows)
          pairTile<kPairRows, kVecs, Into::SubtractFrom>({L_ + row * kBf16Steps / 2, kBf16Steps / 2, 1, s / 2}, U_,
                                                         kBlock, reads(row), kBlock);
        for (int e = 0; e < kVecs; ++e)
          solveTile(gram_ + s * kBf16Steps + s, kBf16Steps, reads(s) + e * kLanes, kBlock);
      }
      pairUpdates(b, s);
    }
    for (int t = 0; t < qp_; t += kPairRows) {
      const int reach = lastStep(t + kPairRows - 1) + 1;
      pairTile<kPairRows, kVecs, Into::Add>(
          {M_ + t * kBf16Steps / 2, kBf16Steps / 2, 1, ((reach < c_ ? reach : c_) + 1) / 2}, U_, kBlock, reads(cp_ + t),
          kBlock);
    }
    if (qp_) writeOutputs(b);
    const int64_t steps = (c_ + 1) / 2;
    for (int64_t i = 0; i < a_.K; i += kPairRows)
      updateTile<kGated>({writesAcross_ + i, 1, Kp_, steps}, U_, decay_ + i, block(b) + i * kBlock,
                         copyOf(b) + i / 2 * kBlock);
  }

  // The right-hand side of the solve, beta (V - K+ S), over K+ S.
  void takeValues(int64_t b) {
    const int64_t column = (block0_ + b) * kBlock;
    const bool whole = column + kBlock <= a_.V;
    for (int s = 0; s < c_; ++s) {
      const float* v = rows_.v(t0_ * n_ + s);
      float* to = reads(s);
      const Vec by = splat(valueBy_[s]), minus = splat(-beta_[s]);
#pragma GCC unroll 2
      for (int e = 0; e < kVecs; ++e) {
        const Vec x = (whole ? load(v + column + e * kLanes) : columns(v, column + e * kLanes)) * by;
        store(to + e * kLanes, kDelta ? fma(minus, load(to + e * kLanes), x) : x);
      }
    }
    std::memset(reads(c_), 0, (cp_ - c_) * kBlock * sizeof(float));
  }

  // Rows [s, s + 16) of U in pairs of steps.
  void pairUpdates(int64_t b, int s) {
    Vec odd = zero();
    for (int row = s; row < s + 16; row += 2)
#pragma GCC unroll 2
      for (int e = 0; e < kVecs; ++e) {
        const Vec u0 = load(reads(row) + e * kLanes), u1 = load(reads(row + 1) + e * kLanes);
        odd = fma(zero(), u0 + u1, odd);
        storePairs(U_ + row / 2 * kBlock + e * kLanes, pairsAcross(u0, u1));
      }
    overflow_[b] += odd;
  }

  Vec columns(const float* row, int64_t column) const {
    const int64_t left = a_.V - column;
    return left >= kLanes ? load(row + column) : left > 0 ? loadPart(row + column, static_cast<int>(left)) : zero();
  }

  void writeOutputs(int64_t b) {
    const int64_t column = (block0_ + b) * kBlock, stride = a_.HV * a_.V;
    if (a_.oDType != DType::F32 || column + kBlock > a_.V) {
      for (int t = 0; t < ct_; ++t) writeOutput(b, t0_ + t, reads(cp_ + t), outBy_[t]);
      return;
    }
    float* o = static_cast<float*>(a_.o) + ((start_ + t0_) * a_.HV + hv_) * a_.V + column;
    Vec odd = zero();
    for (int t = 0; t < ct_; ++t, o += stride)
#pragma GCC unroll 2
      for (int e = 0; e < kVecs; ++e) {
        const Vec x = load(reads(cp_ + t) + e * kLanes) * splat(outBy_[t]);
        odd = fma(zero(), x, odd);
        store(o + e * kLanes, x);
      }
    overflow_[b] += odd;
  }

  void writeOutput(int64_t b, int64_t t, float* o, float by) {
    const int64_t column = (block0_ + b) * kBlock, left = a_.V - column, at = ((start_ + t) * a_.HV + hv_) * a_.V;
    for (int e = 0; e < kVecs; ++e) {
      const Vec x = load(o + e * kLanes) * splat(by);
      overflow_[b] = fma(zero(), x, overflow_[b]);
      store(o + e * kLanes, x);
    }
    narrow(o, left < kBlock ? left : kBlock, a_.o, a_.oDType, at + column);
  }

  // ---- float32, one update after the other

  void runToken(int64_t t) {
    if (kGated) decayRows<Gate>(rows_, t, a_.K, decay_);
    for (int64_t b = 0; b < blocks_; ++b) {
      if (kGated) decayBlock(b);
      float* S = block(b);
      for (int64_t s = t * n_; s < (t + 1) * n_; ++s) {
        std::memcpy(row_, rows_.k(s), a_.K * sizeof(float));
        Vec u[kVecs];
        if (kDelta) readState(S, u);
        for (int e = 0; e < kVecs; ++e) {
          const Vec v = columns(rows_.v(s), (block0_ + b) * kBlock + e * kLanes);
          u[e] = kDelta ? (v - u[e]) * rows_.beta(s) : v;
          overflow_[b] = fma(zero(), u[e], overflow_[b]);
        }
        for (int64_t i = 0; i < a_.K; ++i)
          for (int e = 0; e < kVecs; ++e) {
            float* at = S + i * kBlock + e * kLanes;
            store(at, fma(splat(row_[i]), u[e], load(at)));
          }
      }
      if (!a_.o) continue;
      std::memcpy(row_, rows_.q(t), a_.K * sizeof(float));
      Vec o[kVecs];
      readState(S, o);
      for (int e = 0; e < kVecs; ++e) store(reads(0) + e * kLanes, o[e]);
      writeOutput(b, t, reads(0), outputScale(t));
    }
  }

  // S^T row_, four sums apiece.
  void readState(const float* S, Vec* to) const {
    Vec sums[4][kVecs] = {};
    for (int64_t i = 0; i < Kp_; i += 4)
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x)
#pragma GCC unroll 2
        for (int e = 0; e < kVecs; ++e)
          sums[x][e] = fma(splat(row_[i + x]), load(S + (i + x) * kBlock + e * kLanes), sums[x][e]);
    for (int e = 0; e < kVecs; ++e) to[e] = (sums[0][e] + sums[1][e]) + (sums[2][e] + sums[3][e]);
  }

  const RecurrenceForward& a_;
  const int64_t sequence_, hv_, T_, start_, block0_, blocks_;
  const int n_;
  const int64_t tokens_, Kp_;  // tokens of a chunk; K in whole vectors of pairs
  Scratch scratch_;
  HeadRows rows_;
  float* state_;             // [blocks][Kp][kBlock]
  Pair32* copy_;             // [blocks][Kp / 2][kBlock] the state in pairs of rows
  Pair32* reads_;            // [cp + qp][Kp / 2] K+ and Q+
  Pair32* writes_;           // [cp][Kp / 2] K-
  Pair32* writesAcross_;     // [cp / 2][Kp] K- in pairs of steps
  Pair32* keysDown_;         // [Kp / 2][kBf16Steps] K- transposed
  Pair32 *U_, *L_, *M_;      // [cp / 2][kBlock], [cp][kBf16Steps / 2], [qp][kBf16Steps / 2]
  float *gram_, *products_;  // [cp + qp][kBf16Steps], [cp + qp][kBlock]
  float *decay_, *row_;      // [Kp] the state's decay over the piece; a row padded with zeros
  Vec* overflow_;
  float beta_[kBf16Steps], valueBy_[kBf16Steps], outBy_[kBf16Steps];
  double growth_ = 0;  // what log gates above zero add up to
  int64_t t0_ = 0;
  int ct_ = 0, c_ = 0, cp_ = 0, qp_ = 0;  // tokens and steps of the piece at hand; steps and tokens in whole tiles
  int64_t pieces_ = 0;                    // less kManyPieces for every chunk so far
  bool shattered_ = false, strongStart_ = false, stale_ = true;
};

void recurrenceChunksBf16(const RecurrenceForward& a) {
  const int64_t blocks = (a.V + kBlock - 1) / kBlock, heads = a.N * a.HV;
  // Few heads are split further, over blocks of columns. A column's arithmetic is the same in every split.
  const int64_t threads = numThreads();
  int64_t splits = 1;
  if (threads > 1 && heads % threads != 0 && heads < 4 * threads) splits = blocks < threads ? blocks : threads;
  const int64_t span = (blocks + splits - 1) / splits;
  parallelFor(heads * splits, a.cancel, [&](int64_t task) {
    const int64_t head = task / splits, b0 = task % splits * span, b1 = b0 + span < blocks ? b0 + span : blocks;
    if (b0 >= b1 || a.tokenForm(head / a.HV)) return;
    if (a.length(head / a.HV) <= kFewTokens)
      return recurrenceScanColumns(a, head / a.HV, head % a.HV, b0 * kBlock, b1 * kBlock);
    withCell(a, [&](auto gate, auto update) {
      HeadChunks<decltype(gate), decltype(update)>(a, head / a.HV, head % a.HV, b0, b1).run();
    });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
