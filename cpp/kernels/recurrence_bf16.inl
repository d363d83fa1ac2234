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
#include "kernels/recurrence_bf16_pack.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int kManyPieces = 5;  // so many to a chunk, and the float32 scan is faster
constexpr int kFewSteps = 6;    // pieces of at most this many run in float32
constexpr int kFewTokens = 4;   // and sequences of at most this many; their outputs may well be small by chance

// One sequence and value head, column blocks [block0, block1). A column's bits do not depend on the others'.
class HeadChunks : ChunkPieces {
 public:
  HeadChunks(const RecurrenceForward& a, int64_t sequence, int64_t hv, int64_t block0, int64_t block1)
      : ChunkPieces(a, sequence, hv, block0 * kBlock, block1 * kBlock),
        sequence_(sequence),
        block0_(block0),
        blocks_(block1 - block0),
        scratch_(blocks_ * Kp_ * kBlock * 3 / 2 + (blocks_ * 2 + 3) * kBf16Steps * kBlock / 2 + Kp_ + blocks_ * kLanes +
                 6 * 16) {
    state_ = scratch_.take(blocks_ * Kp_ * kBlock);
    copy_ = reinterpret_cast<Pair32*>(scratch_.take(blocks_ * Kp_ / 2 * kBlock));
    U_ = reinterpret_cast<Pair32*>(scratch_.take(kBf16Steps / 2 * kBlock));
    products_ = scratch_.take(kBf16Steps * kBlock);
    outputs_ = scratch_.take(blocks_ * kBf16Steps * kBlock);
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
      shattered_ = t1 < T_ && pieces_ > kManyPieces;
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
  float* block(int64_t b) const { return state_ + b * Kp_ * kBlock; }
  Pair32* copyOf(int64_t b) const { return copy_ + b * Kp_ / 2 * kBlock; }
  float* reads(int row) const { return products_ + row * kBlock; }
  float* outputs(int64_t b, int t) const { return outputs_ + (b * kBf16Steps + t) * kBlock; }

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

  // ---- pieces

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
      decayRows(rows_, channel_, t0_, a_.K, decay_);
      for (int64_t b = 0; b < blocks_; ++b) decayBlock(b);
      stale_ = true;
    }
    if (stale_)
      for (int64_t b = 0; b < blocks_; ++b) copyBlock(b);
    stale_ = false;
    pack();
    startPrefetch();
    for (int64_t b = 0; b < blocks_; ++b) runBlock(b);
    if (qp_) writeOutputs();
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

  // The rows of the next piece and of this one's outputs come in between the tiles, a few lines at a time: where many
  // are asked for at once they wait for each other, and the tile for them.
  void startPrefetch() {
    const int64_t tiles = blocks_ * ((delta_ ? cp_ + qp_ : qp_) / kPairRows + (a_.K + kPairRows - 1) / kPairRows);
    prefetchBy_ = static_cast<float>(c_) / static_cast<float>(tiles);
    prefetchTo_ = 0;
    prefetched_ = 0;
  }

  RANKONE_INLINE void prefetchSome() {
    prefetchTo_ += prefetchBy_;
    for (; prefetched_ < static_cast<int>(prefetchTo_); ++prefetched_) {
      const int64_t token = prefetched_ / n_, t = t0_ + ct_ + token;
      if (t < T_) rows_.prefetchStep(t * n_ + prefetched_ % n_, t);
      if (a_.o && prefetched_ % n_ == 0) prefetchOutput(t0_ + token);
    }
  }

  void prefetchOutput(int64_t t) const {
    const int64_t size = static_cast<int64_t>(dtypeSize(a_.oDType)), first = block0_ * kBlock,
                  last = first + blocks_ * kBlock < a_.V ? first + blocks_ * kBlock : a_.V;
    const char* row = static_cast<const char*>(a_.o) + ((start_ + t) * a_.HV + hv_) * a_.V * size;
    for (const char* p = row + first * size; p < row + last * size; p += 64) __builtin_prefetch(p, 1, 3);
  }

  // ---- one block of columns

  void runBlock(int64_t b) {
    const int64_t across = Kp_ / 2, pairs = (a_.K + 1) / 2;
    const Pair32* copy = copyOf(b);
    for (int row = delta_ ? 0 : cp_; row < cp_ + qp_; row += kPairRows) {
      prefetchSome();
      pairTile<kPairRows, kVecs, Into::Set>({reads_ + row * across, across, 1, pairs}, copy, kBlock,
                                            row < cp_ ? reads(row) : outputs(b, row - cp_), kBlock);
    }
    takeValues(b);
    for (int s = 0; s < cp_; s += 16) {
      if (delta_) {
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
          {M_ + t * kBf16Steps / 2, kBf16Steps / 2, 1, ((reach < c_ ? reach : c_) + 1) / 2}, U_, kBlock, outputs(b, t),
          kBlock);
    }
    const int64_t steps = (c_ + 1) / 2;
    const auto update = gated_ ? updateTile<true> : updateTile<false>;
    for (int64_t i = 0; i < a_.K; i += kPairRows) {
      prefetchSome();
      update({writesAcross_ + i, 1, Kp_, steps}, U_, decay_ + i, block(b) + i * kBlock, copyOf(b) + i / 2 * kBlock);
    }
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
        store(to + e * kLanes, delta_ ? fma(minus, load(to + e * kLanes), x) : x);
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

  // Token by token, over all blocks: a token's row is contiguous, and rows a multiple of 4 KB apart share a set of the
  // cache.
  void writeOutputs() {
    const bool direct = a_.oDType == DType::F32;
    float* o = static_cast<float*>(a_.o) + ((start_ + t0_) * a_.HV + hv_) * a_.V + block0_ * kBlock;
    for (int t = 0; t < ct_; ++t, o += a_.HV * a_.V)
      for (int64_t b = 0; b < blocks_; ++b) {
        if (!direct || (block0_ + b + 1) * kBlock > a_.V) {
          writeOutput(b, t0_ + t, outputs(b, t), outBy_[t]);
          continue;
        }
#pragma GCC unroll 2
        for (int e = 0; e < kVecs; ++e) {
          const Vec x = load(outputs(b, t) + e * kLanes) * splat(outBy_[t]);
          overflow_[b] = fma(zero(), x, overflow_[b]);
          store(o + b * kBlock + e * kLanes, x);
        }
      }
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
    if (gated_) decayRows(rows_, channel_, t, a_.K, decay_);
    for (int64_t b = 0; b < blocks_; ++b) {
      if (gated_) decayBlock(b);
      float* S = block(b);
      for (int64_t s = t * n_; s < (t + 1) * n_; ++s) {
        std::memcpy(row_, rows_.k(s), a_.K * sizeof(float));
        Vec u[kVecs];
        if (delta_) readState(S, u);
        for (int e = 0; e < kVecs; ++e) {
          const Vec v = columns(rows_.v(s), (block0_ + b) * kBlock + e * kLanes);
          u[e] = delta_ ? (v - u[e]) * rows_.beta(s) : v;
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

  const int64_t sequence_, block0_, blocks_;
  Scratch scratch_;
  float* state_;                           // [blocks][Kp][kBlock]
  Pair32* copy_;                           // [blocks][Kp / 2][kBlock] the state in pairs of rows
  Pair32* U_;                              // [cp / 2][kBlock] in pairs of steps
  float* products_;                        // [cp][kBlock] K+ S, then U
  float* outputs_;                         // [blocks][qp][kBlock] Q+ S, then O
  float* row_;                             // [Kp] a row, padded with zeros
  Vec* overflow_;                          // per block: NaN once a value was not finite
  int64_t pieces_ = 0;                     // less kManyPieces for every chunk so far
  float prefetchBy_ = 0, prefetchTo_ = 0;  // steps per tile, and how far by now
  int prefetched_ = 0;
  bool shattered_ = false, stale_ = true;  // too many pieces; copy_ lags behind state_
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
    HeadChunks(a, head / a.HV, head % a.HV, b0, b1).run();
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
