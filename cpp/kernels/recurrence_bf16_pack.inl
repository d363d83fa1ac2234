// A piece of a sequence as every block of columns sees it, for the chunks of recurrence_bf16.inl: where it ends, its
// keys and queries with their decays in bf16 pairs, and the two triangles that its steps owe each other.
#include "kernels/recurrence_bf16_tiles.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int kBf16Steps = 32;  // updates in a chunk
constexpr float kBf16FoldLimit = 60.0f;
// Decaying or erased, a state forgets its rounding. One that grows by more than e carries it on, and is left to
// float32.
constexpr double kMostGrowth = 1;

// One sequence and value head. Which cell of the grid it is matters at run time only, but for the loops over channels.
class ChunkPieces {
 protected:
  // [column0, column1): of the values that matter.
  ChunkPieces(const RecurrenceForward& a, int64_t sequence, int64_t hv, int64_t column0, int64_t column1)
      : a_(a),
        gated_(a.gate != GateKind::None),
        channel_(a.gate == GateKind::Channel),
        delta_(a.update == UpdateRule::Delta),
        hv_(hv),
        T_(a.length(sequence)),
        start_(a.start(sequence)),
        n_(static_cast<int>(a.n)),
        tokens_(chunkTokens(a)),
        Kp_(roundUp(a.K, 2 * kLanes)),
        packed_(kBf16Steps * Kp_ * 5 / 2 + 3 * kBf16Steps * kBf16Steps + 3 * Kp_ + 8 * 16),
        rows_(a, FloatView(), sequence, hv, tokens_, column0, column1) {
    reads_ = takePairs(2 * kBf16Steps * Kp_ / 2);
    writes_ = channel_ ? takePairs(kBf16Steps * Kp_ / 2) : reads_;
    writesAcross_ = takePairs(kBf16Steps / 2 * Kp_);
    keysDown_ = takePairs(Kp_ / 2 * kBf16Steps);
    L_ = takePairs(kBf16Steps * kBf16Steps / 2);
    M_ = takePairs(kBf16Steps * kBf16Steps / 2);
    gram_ = packed_.take(2 * kBf16Steps * kBf16Steps);
    decay_ = packed_.take(Kp_);
    logSum_ = packed_.take(2 * Kp_);
    logRest_ = logSum_ + Kp_;
  }

  // Whether log gates above zero let the state grow too much in tokens before t1.
  bool grows(int64_t t0, int64_t t1) {
    if (!gated_) return false;
    for (int64_t t = t0; t < t1; ++t) {
      if (channel_) {
        const float* g = ChannelGate::logDecays(rows_, t);
        Vec most = zero();
        for (int64_t i = 0; i < a_.K; i += kLanes) {
          const int64_t left = a_.K - i;
          const Vec x = left >= kLanes ? load(g + i) : loadPart(g + i, static_cast<int>(left));
          most = select(x > most, x, most);
        }
        if (any(most > 0.0f)) growth_ += static_cast<double>(largest(most));
      } else {
        const float g = ScalarGate::logDecay(rows_, t);
        if (g > 0) growth_ += static_cast<double>(g);
      }
    }
    return growth_ > kMostGrowth;
  }

  static bool any(IVec mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }

  // The piece from t0_ on; strongStart_: its first gate is applied to the state, not folded.
  int64_t pieceEnd(int64_t t1) {
    strongStart_ = false;
    if (!gated_) return t1;
    const auto within = [](float x) { return std::fabs(x) <= kBf16FoldLimit; };
    if (channel_) {
      float* sum = decay_;
      const int64_t whole = a_.K / kLanes * kLanes;
      const int left = static_cast<int>(a_.K - whole);
      for (int64_t t = t0_; t < t1; ++t) {
        const float* g = ChannelGate::logDecays(rows_, t);
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
        const float g = ScalarGate::logDecay(rows_, t);
        sum += static_cast<double>(g);
        if (within(g) && within(static_cast<float>(sum))) continue;
        if (t > t0_) return t;
        strongStart_ = true;
        sum = 0;
      }
    }
    return t1;
  }

  int lastStep(int t) const { return t * n_ + n_ - 1; }

  void pack() {
    cp_ = static_cast<int>(roundUp(c_, 16));
    qp_ = a_.o ? static_cast<int>(roundUp(ct_, kPairRows)) : 0;
    packFactors();
    packRows();
    const int64_t across = Kp_ / 2;
    for (int s = 0; s < c_; s += 2)
      for (int64_t p = 0; p < across; p += kLanes) {
        const Pair32* at = writes_ + s * across + p;
        Vec first, second;
        pairsOfRows(loadPairs(at), loadPairs(at + across), first, second);
        storePairs(writesAcross_ + s / 2 * Kp_ + 2 * p, first);
        storePairs(writesAcross_ + s / 2 * Kp_ + 2 * p + kLanes, second);
      }
    if (delta_ || qp_) packGram();
  }

  // Per token or step: what values and outputs are multiplied by.
  void packFactors() {
    float* high = outBy_;
    float low[kBf16Steps], shrink[kBf16Steps];
    double c = 0;
    for (int t = 0; t < kBf16Steps; ++t) {
      if (gated_ && !channel_)
        if (t < ct_ && !(t == 0 && strongStart_)) c += static_cast<double>(ScalarGate::logDecay(rows_, t0_ + t));
      high[t] = static_cast<float>(c);
      low[t] = static_cast<float>(c - high[t]);
    }
    for (int t = 0; t < kBf16Steps; t += kLanes) {
      Vec grow, by;
      expBoth(load(high + t), load(low + t), grow, by);
      store(high + t, grow);
      store(shrink + t, by);
    }
    if (gated_ && !channel_)
      for (int64_t i = 0; i < Kp_; i += kLanes) store(decay_ + i, splat(outBy_[ct_ - 1]));
    for (int s = 0; s < c_; ++s) {
      beta_[s] = delta_ ? rows_.beta(t0_ * n_ + s) : 1.0f;
      valueBy_[s] = beta_[s] * shrink[n_ == 1 ? s : s / n_];
    }
    for (int t = 0; t < ct_; ++t) outBy_[t] *= outputScale(t0_ + t);
  }

  float outputScale(int64_t t) const {
    return a_.outputScale ? a_.scale * a_.outputScale[(start_ + t) * a_.H + a_.keyHead(hv_)] : a_.scale;
  }

  // The piece's keys and queries, token by token: a token's row is contiguous, and rows a multiple of 4 KB apart share
  // a set of the cache.
  void packRows() {
    if (channel_) {
      std::memset(logSum_, 0, 2 * Kp_ * sizeof(float));  // logRest_ follows
      for (int64_t i = 0; i < Kp_; i += kLanes) store(decay_ + i, splat(1));
    }
    const int64_t whole = a_.K / (2 * kLanes) * (2 * kLanes), across = Kp_ / 2;
    for (int t = 0; t < ct_; ++t) {
      for (int64_t i = 0; i < whole; i += 2 * kLanes)
        channel_ ? packToken<true, true>(t, i) : packToken<true, false>(t, i);
      if (whole < Kp_) channel_ ? packToken<false, true>(t, whole) : packToken<false, false>(t, whole);
    }
    const size_t row = across * sizeof(Pair32);
    std::memset(reads_ + c_ * across, 0, (cp_ - c_) * row);
    if (writes_ != reads_) std::memset(writes_ + c_ * across, 0, (cp_ - c_) * row);
    if (qp_) std::memset(reads_ + (cp_ + ct_) * across, 0, (qp_ - ct_) * row);
  }

  // Channels [i, i + 32) of a token. kWhole: all of them are below K.
  template <bool kWhole, bool kPerChannel>
  RANKONE_INLINE void packToken(int t, int64_t i) {
    const auto part = [&](const float* p, int64_t at) __attribute__((always_inline)) {
      const int64_t left = a_.K - at;
      return kWhole || left >= kLanes ? load(p + at) : left > 0 ? loadPart(p + at, static_cast<int>(left)) : zero();
    };
    const int64_t across = Kp_ / 2, to = i / 2, j = i + kLanes;
    Vec grow0 = splat(1), shrink0 = splat(1), grow1 = splat(1), shrink1 = splat(1);
    if constexpr (kPerChannel)
      if (t || !strongStart_) {
        const float* g = ChannelGate::logDecays(rows_, t0_ + t);
        foldGate(i, part(g, i), grow0, shrink0);
        foldGate(j, part(g, j), grow1, shrink1);
      }
    if (qp_) {
      const float* q = rows_.q(t0_ + t);
      storePairs(reads_ + (cp_ + t) * across + to, pairsAlong(part(q, i) * grow0, part(q, j) * grow1));
    }
    for (int s = t * n_; s < (t + 1) * n_; ++s) {
      const float* k = rows_.k(t0_ * n_ + s);
      const Vec x = part(k, i), y = part(k, j);
      if (delta_ || !kPerChannel) storePairs(reads_ + s * across + to, pairsAlong(x * grow0, y * grow1));
      if (kPerChannel) storePairs(writes_ + s * across + to, pairsAlong(x * shrink0, y * shrink1));
    }
  }

  // One more gate into the cumulative decay of the channels from i on.
  RANKONE_INLINE void foldGate(int64_t i, Vec g, Vec& grow, Vec& shrink) {
    Vec c = load(logSum_ + i), rest = load(logRest_ + i);
    addExactly(c, rest, g);
    store(logSum_ + i, c);
    store(logRest_ + i, rest);
    expBoth(c, rest, grow, shrink);
    store(decay_ + i, grow);
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
    if (delta_) {
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

  const RecurrenceForward& a_;
  const bool gated_, channel_, delta_;
  const int64_t hv_, T_, start_;
  const int n_;
  const int64_t tokens_, Kp_;  // tokens of a chunk; K in whole vectors of pairs
  Scratch packed_;
  HeadRows rows_;
  Pair32* reads_;             // [cp + qp][Kp / 2] K+ and Q+
  Pair32* writes_;            // [cp][Kp / 2] K-
  Pair32* writesAcross_;      // [cp / 2][Kp] K- in pairs of steps
  Pair32* keysDown_;          // [Kp / 2][kBf16Steps] K- transposed
  Pair32 *L_, *M_;            // [cp][kBf16Steps / 2], [qp][kBf16Steps / 2]
  float* gram_;               // [cp + qp][kBf16Steps], the first cp rows times beta
  float* decay_;              // [Kp] of the state, over the piece or by its first gate
  float *logSum_, *logRest_;  // [Kp] the log decay so far
  float beta_[kBf16Steps], valueBy_[kBf16Steps], outBy_[kBf16Steps];
  double growth_ = 0;  // what log gates above zero add up to
  int64_t t0_ = 0;
  int ct_ = 0, c_ = 0, cp_ = 0, qp_ = 0;  // tokens and steps of the piece at hand; steps and tokens in whole tiles
  bool strongStart_ = false;

 private:
  static int64_t chunkTokens(const RecurrenceForward& a) {
    const int64_t most = kBf16Steps / a.n;
    return a.packTokens < most ? a.packTokens : most;
  }
  Pair32* takePairs(size_t count) { return reinterpret_cast<Pair32*>(packed_.take(count)); }
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
