// Scans with a matrix state per head, S [K,V] in float32, and a log decay per channel and token:
//
//     DPLR, RWKV-7:  p = S^T a;  S <- diag(e^g) S + b p^T + k v^T;  o = scale S^T q
//     RWKV-6:        o = scale (S^T q + (q . (u k)) v);  S <- diag(e^g) S + k v^T
//
// One pass over a block of the state's columns per token: it decays, writes, and reads both the output and, for DPLR,
// the next token's a^T S. Limit: 5 multiply-adds an element of the state (RWKV-6: 3) at two vectors of them a cycle;
// the block stays in the nearest cache. A slow decay acts as fma(S, expm1(g), S). Sums over K are float32 in stretches
// of 128 rows. Error 1e-7 to 1e-6 against float64. DPLR: flash-linear-attention; RWKV-7: Peng et al., 2025
// (arXiv:2503.14456); RWKV-6: Peng et al., 2024 (2404.05892).
#include "kernels/elementwise.inl"
#include "kernels/gated_scan_rows.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kScanVecs = 2;
constexpr int kScanBlock = kScanVecs * kLanes;
// Vectors across a pass where the registers hold their sums; a pass of fewer does a column's arithmetic in the same
// order.
#if RANKONE_LEVEL == 2 || defined(__aarch64__)
constexpr int kScanWide = 4;
#else
constexpr int kScanWide = kScanVecs;
#endif
constexpr int kScanSpan = kScanWide * kLanes;  // columns of a block, [K][kScanSpan]; of the last one maybe kScanBlock
constexpr int64_t kScanSumRows = 128;
constexpr int64_t kScanPack = 32;  // tokens whose rows are readied at a time

// One token of one block of columns.
struct ScanStep {
  const float *q, *k, *b, *next;  // [K]; next: a of the token after this one
  const float *gain, *g;          // [K]
  const int32_t* keep;
  const float *v, *p;  // by column
  float *o, *read;     // by column S^T q, and a^T S of the next token; read may be p
};

// A state or some columns of it: rows `stride` apart, and where they go.
struct ScanState {
  const float* from;
  int64_t fromStride;
  float* to;
  int64_t toStride;
};

// Keeps what is used more than once in a register: gcc would rather load it again, and loads are scarce here.
RANKONE_INLINE Vec scanHeld(Vec x) {
#if RANKONE_LEVEL == 2
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#endif
  return x;
}

enum class ScanOutput {
  None,
  Before,
  After
};  // whether o is wanted, and reads the state before it is written or after

// kRead: a^T S of the next token is wanted.
template <int kVecs, bool kLowRank, bool kRead, ScanOutput kOut>
__attribute__((noinline)) void scanPass(const ScanState& S, int64_t K, const ScanStep& x) {
  const float *q = x.q, *k = x.k, *b = x.b, *next = x.next, *gain = x.gain;
  const int32_t* keep = x.keep;
  const float* from = S.from;
  float* to = S.to;
  const int64_t fromStride = S.fromStride, toStride = S.toStride;
  Vec v[kVecs], p[kVecs], o[kVecs], read[kVecs];
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    v[j] = load(x.v + j * kLanes);
    if (kLowRank) p[j] = load(x.p + j * kLanes);
    o[j] = read[j] = zero();
  }
  for (int64_t i0 = 0; i0 < K; i0 += kScanSumRows) {
    const int64_t i1 = K - i0 < kScanSumRows ? K : i0 + kScanSumRows;
    Vec toO[kVecs], toRead[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) toO[j] = toRead[j] = zero();
    for (int64_t i = i0; i < i1; ++i, from += fromStride, to += toStride) {
      const Vec by = splat(gain[i]), y = splat(k[i]), z = kOut == ScanOutput::None ? zero() : splat(q[i]);
      const Vec x1 = kLowRank ? splat(b[i]) : zero(), x2 = kRead ? splat(next[i]) : zero();
      const IVec mask = IVec{} + keep[i];
      Vec s[kVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) s[j] = scanHeld(load(from + j * kLanes));
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        if (kOut == ScanOutput::Before) toO[j] = fma(z, s[j], toO[j]);
        s[j] = fma(s[j], by, (Vec)((IVec)s[j] & mask));
        if (kLowRank) s[j] = fma(x1, p[j], s[j]);
        s[j] = fma(y, v[j], s[j]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        store(to + j * kLanes, s[j]);
        if (kOut == ScanOutput::After) toO[j] = fma(z, s[j], toO[j]);
        if (kRead) toRead[j] = fma(x2, s[j], toRead[j]);
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      if (kOut != ScanOutput::None) o[j] += toO[j];
      if (kRead) read[j] += toRead[j];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    if (kOut != ScanOutput::None) store(x.o + j * kLanes, o[j]);
    if (kRead) store(x.read + j * kLanes, read[j]);
  }
}

template <int kVecs>
void scanPassOf(const ScanState& S, int64_t K, const ScanStep& x, bool lowRank) {
  constexpr ScanOutput kNone = ScanOutput::None;
  if (!lowRank)
    return x.o ? scanPass<kVecs, false, false, ScanOutput::Before>(S, K, x)
               : scanPass<kVecs, false, false, kNone>(S, K, x);
  if (!x.o) return scanPass<kVecs, true, true, kNone>(S, K, x);
  return x.next ? scanPass<kVecs, true, true, ScanOutput::After>(S, K, x)
                : scanPass<kVecs, true, false, ScanOutput::After>(S, K, x);
}

// S, whose rows that are reset hold key v^T, or nothing.
__attribute__((noinline)) void resetRows(ScanState& S, int64_t K, int64_t width, const float* g, const float* key,
                                         const float* v) {
  for (int64_t i = 0; i < K; ++i) {
    float* to = S.to + i * S.toStride;
    if (S.from != S.to) std::memcpy(to, S.from + i * S.fromStride, static_cast<size_t>(width) * sizeof(float));
    if (!(g[i] < kScanReset)) continue;
    for (int64_t c = 0; c < width; c += kLanes) store(to + c, key ? fma(splat(key[i]), load(v + c), zero()) : zero());
  }
  S.from = S.to;
  S.fromStride = S.toStride;
}

// A token of `width` columns: kScanSpan or kScanBlock. What is read before a row is reset has been by then.
__attribute__((noinline)) void scanToken(ScanState S, int64_t K, const ScanStep& x, int64_t width, bool lowRank,
                                         bool resets) {
  if (resets && lowRank) resetRows(S, K, width, x.g, nullptr, nullptr);
  width == kScanBlock ? scanPassOf<kScanVecs>(S, K, x, lowRank) : scanPassOf<kScanWide>(S, K, x, lowRank);
  if (!resets || lowRank) return;
  S.from = S.to;
  resetRows(S, K, width, x.g, x.k, x.v);
}

// read = a^T S, its sums in the order of a pass's.
template <int kVecs>
__attribute__((noinline)) void scanReadOf(const float* S, int64_t stride, int64_t K, const float* a, float* read) {
  Vec all[kVecs] = {};
  for (int64_t i0 = 0; i0 < K; i0 += kScanSumRows) {
    const int64_t i1 = K - i0 < kScanSumRows ? K : i0 + kScanSumRows;
    Vec part[kVecs] = {};
    for (int64_t i = i0; i < i1; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) part[j] = fma(splat(a[i]), load(S + i * stride + j * kLanes), part[j]);
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) all[j] += part[j];
  }
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) store(read + j * kLanes, all[j]);
}
inline void scanRead(const float* S, int64_t stride, int64_t K, const float* a, int64_t width, float* read) {
  width == kScanBlock ? scanReadOf<kScanVecs>(S, stride, K, a, read) : scanReadOf<kScanWide>(S, stride, K, a, read);
}

// Columns [c0, c0 + width) of a state [K,V], as far as `end`, into [K][width]: zeros beyond it, or without one.
__attribute__((noinline)) void takeColumns(const float* state, int64_t K, int64_t V, int64_t c0, int64_t end,
                                           int64_t width, float* block) {
  const int64_t n = end - c0 < width ? end - c0 : width;
  if (!state || n < width) std::memset(block, 0, static_cast<size_t>(K * width) * sizeof(float));
  for (int64_t i = 0; state && i < K; ++i)
    std::memcpy(block + i * width, state + i * V + c0, static_cast<size_t>(n) * sizeof(float));
}
__attribute__((noinline)) void giveColumns(const float* block, int64_t K, int64_t V, int64_t c0, int64_t end,
                                           int64_t width, float* state) {
  const int64_t n = end - c0 < width ? end - c0 : width;
  for (int64_t i = 0; i < K; ++i)
    std::memcpy(state + i * V + c0, block + i * width, static_cast<size_t>(n) * sizeof(float));
}

// How some columns of a state lie in blocks.
struct ScanBlocks {
  int64_t ld, count;  // columns, rounded up
  explicit ScanBlocks(int64_t columns)
      : ld(roundUp(columns, kScanBlock)), count((columns + kScanSpan - 1) / kScanSpan) {}
  int64_t width(int64_t b) const { return ld - b * kScanSpan < kScanSpan ? ld - b * kScanSpan : kScanSpan; }
};

// One head of one sequence, columns [column0, column1) of V.
class HeadScanForward {
 public:
  HeadScanForward(const GatedScanForward& p, int64_t sequence, int64_t h, int64_t column0, int64_t column1)
      : p_(p),
        sequence_(sequence),
        h_(h),
        T_(p.length(sequence)),
        pack_(T_ < kScanPack ? T_ : kScanPack),
        c0_(column0),
        columns_(column1 - column0),
        blocks_(columns_),
        ld_(blocks_.ld),
        inPlace_(T_ == 1 && p.initialState && p.finalState && columns_ == ld_),
        scratch_(alignFloats(inPlace_ ? 0 : ld_ * p.K) + 2 * alignFloats(pack_ * ld_) + alignFloats(ld_) +
                 alignFloats(p.K)),
        S_(scratch_.take(inPlace_ ? 0 : ld_ * p.K)),
        v_(scratch_.take(pack_ * ld_)),
        o_(scratch_.take(pack_ * ld_)),
        read_(scratch_.take(ld_)),
        bonus_(scratch_.take(p.K)) {}

  void run() {
    const int64_t K = p_.K, at = p_.stateOffset(sequence_, h_);
    const float* initial = p_.initialState ? p_.initialState + at : nullptr;
    float* final = p_.finalState ? p_.finalState + at : nullptr;
    if (p_.bonus) widen(p_.bonus.data, p_.bonus.dtype, h_ * K, K, bonus_);
    const auto state = [&](int64_t b) {
      const int64_t c = b * kScanSpan, width = blocks_.width(b);
      if (inPlace_) return ScanState{initial + c0_ + c, p_.V, final + c0_ + c, p_.V};
      return ScanState{S_ + c * K, width, S_ + c * K, width};
    };
    for (int64_t b = 0; b < blocks_.count && !inPlace_; ++b)
      takeColumns(initial, K, p_.V, c0_ + b * kScanSpan, c0_ + columns_, blocks_.width(b), state(b).to);
    // A pack's last token reads for the next one: its row of a is readied with the pack.
    ScanRows rows(p_, sequence_, h_, pack_ + 1, false);
    for (int64_t t0 = 0; t0 < T_; t0 += pack_) {
      if (p_.cancel && p_.cancel->load(std::memory_order_relaxed)) return;
      const int64_t count = T_ - t0 < pack_ ? T_ - t0 : pack_, ahead = t0 + count < T_ ? 1 : 0;
      rows.ready(t0, count + ahead);
      takeValues(t0, count);
      ahead_ = t0 + pack_;
      for (int64_t b = 0; b < blocks_.count; ++b) block(rows, state(b), b, t0 == 0, count, ahead);
      giveOutputs(rows, t0, count);
    }
    for (int64_t b = 0; b < blocks_.count && final && !inPlace_; ++b)
      giveColumns(state(b).to, K, p_.V, c0_ + b * kScanSpan, c0_ + columns_, blocks_.width(b), final);
  }

 private:
  int64_t valueAt(int64_t t) const { return ((p_.start(sequence_) + t) * p_.H + h_) * p_.V + c0_; }

  void takeValues(int64_t t0, int64_t count) {
    if (p_.v.dtype == DType::F32 && columns_ == ld_) {
      values_ = {static_cast<const float*>(p_.v.data) + valueAt(t0), p_.H * p_.V};
      return;
    }
    values_ = {v_, ld_};
    for (int64_t t = 0; t < count; ++t) {
      float* row = v_ + t * ld_;
      if (columns_ < ld_) std::memset(row + ld_ - kScanBlock, 0, kScanBlock * sizeof(float));
      widen(p_.v.data, p_.v.dtype, valueAt(t0 + t), columns_, row);
    }
  }

  __attribute__((noinline)) void giveOutputs(const ScanRows& rows, int64_t t0, int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
      float* row = o_ + t * ld_;
      const float own = p_.bonus ? bonusOf(rows.row(ScanRows::kQ, t), rows.row(ScanRows::kK, t), bonus_, p_.K) : 0.0f;
      for (int64_t c = 0; c < ld_; c += kLanes) {
        Vec o = load(row + c);
        if (p_.bonus) o = fma(splat(own), load(values_.at(t) + c), o);
        store(row + c, o * p_.scale);
      }
      narrow(row, columns_, p_.o, p_.oDType, valueAt(t0 + t));
    }
  }

  void block(const ScanRows& rows, const ScanState& S, int64_t b, bool first, int64_t count, int64_t ahead) {
    const bool lowRank = static_cast<bool>(p_.a);
    const int64_t column = b * kScanSpan, width = blocks_.width(b);
    if (lowRank && first) scanRead(S.from, S.fromStride, p_.K, rows.row(ScanRows::kA, 0), width, read_ + column);
    for (int64_t t = 0; t < count; ++t) {
      ScanStep x{};
      x.q = rows.row(ScanRows::kQ, t);
      x.k = rows.row(ScanRows::kK, t);
      x.gain = rows.gain(t);
      x.keep = rows.keep(t);
      x.g = rows.row(ScanRows::kG, t);
      x.v = values_.at(t) + column;
      x.o = o_ + t * ld_ + column;
      if (lowRank) {
        x.b = rows.row(ScanRows::kB, t);
        x.next = t + 1 == count + ahead ? nullptr : rows.row(ScanRows::kA, t + 1);
        x.p = x.read = read_ + column;
      }
      if (b == 0 && ahead_ + t < T_) {
        rows.fetch(ahead_ + t);
        fetchRow(p_.v, valueAt(ahead_ + t), columns_);
      }
      scanToken(S, p_.K, x, width, lowRank, rows.resets(t));
    }
  }

  const GatedScanForward& p_;
  const int64_t sequence_, h_, T_, pack_, c0_, columns_;
  const ScanBlocks blocks_;
  const int64_t ld_;
  const bool inPlace_;  // a single token goes from the caller's state to the caller's state
  Scratch scratch_;
  float *S_, *v_, *o_, *read_, *bonus_;
  RowSource values_;   // the pack's
  int64_t ahead_ = 0;  // the next pack's first token
};

}  // namespace

void gatedScan(const GatedScanForward& p) {
  const int64_t heads = p.N * p.H, threads = numThreads(), groups = (p.V + 31) / 32;
  // Few heads are split further, over groups of 32 columns. A column's arithmetic is the same in every group.
  int64_t splits = 1;
  if (threads > 1 && heads % threads != 0 && heads < 4 * threads) splits = groups < threads ? groups : threads;
  const int64_t span = (groups + splits - 1) / splits * 32, tokens = p.N > 0 ? p.B * p.T / p.N + 1 : 1;
  const Split s = splitWork(heads * splits, tokens * p.K * (p.V < span ? p.V : span) * 8);
  parallelFor(s.tasks, p.cancel, [&](int64_t task) {
    for (int64_t i = s.begin(task); i < s.end(task); ++i) {
      const int64_t head = i / splits, c0 = i % splits * span, c1 = c0 + span < p.V ? c0 + span : p.V;
      if (c0 < c1) HeadScanForward(p, head / p.H, head % p.H, c0, c1).run();
    }
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

#include "kernels/gated_scan_backward.inl"
