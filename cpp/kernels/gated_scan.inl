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
constexpr int kScanBlock = kScanVecs * kLanes;  // columns of a block, [K][kScanBlock]
constexpr int64_t kScanSumRows = 128;
constexpr int64_t kScanPack = 32;  // tokens whose rows are readied at a time

// One token of one block of columns.
struct ScanStep {
  const float *q, *k, *b, *next;  // [K]; next: a of the token after this one
  const float *gain, *g;          // [K]
  const int32_t* keep;
  const float *v, *p;  // [kScanBlock]
  float *o, *read;     // [kScanBlock] S^T q, and a^T S of the next token
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
template <bool kLowRank, bool kRead, ScanOutput kOut, bool kReset>
__attribute__((noinline)) void scanPass(float* S, int64_t K, const ScanStep& x) {
  const float *q = x.q, *k = x.k, *b = x.b, *next = x.next, *gain = x.gain;
  const int32_t* keep = x.keep;
  Vec v[kScanVecs], p[kScanVecs], o[kScanVecs], read[kScanVecs];
#pragma GCC unroll 4
  for (int j = 0; j < kScanVecs; ++j) {
    v[j] = load(x.v + j * kLanes);
    if (kLowRank) p[j] = load(x.p + j * kLanes);
    o[j] = read[j] = zero();
  }
  for (int64_t i0 = 0; i0 < K; i0 += kScanSumRows) {
    const int64_t i1 = K - i0 < kScanSumRows ? K : i0 + kScanSumRows;
    Vec toO[kScanVecs], toRead[kScanVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kScanVecs; ++j) toO[j] = toRead[j] = zero();
    for (int64_t i = i0; i < i1; ++i) {
      float* row = S + i * kScanBlock;
      const Vec by = splat(gain[i]), y = splat(k[i]), z = kOut == ScanOutput::None ? zero() : splat(q[i]);
      const Vec x1 = kLowRank ? splat(b[i]) : zero(), x2 = kRead ? splat(next[i]) : zero();
      const IVec mask = IVec{} + keep[i];
      const bool reset = kReset && x.g[i] < kScanReset;
      Vec s[kScanVecs];
#pragma GCC unroll 4
      for (int j = 0; j < kScanVecs; ++j) s[j] = scanHeld(load(row + j * kLanes));
#pragma GCC unroll 4
      for (int j = 0; j < kScanVecs; ++j) {
        if (kOut == ScanOutput::Before) toO[j] = fma(z, s[j], toO[j]);
        s[j] = kReset && reset ? zero() : fma(s[j], by, (Vec)((IVec)s[j] & mask));
        if (kLowRank) s[j] = fma(x1, p[j], s[j]);
        s[j] = fma(y, v[j], s[j]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < kScanVecs; ++j) {
        store(row + j * kLanes, s[j]);
        if (kOut == ScanOutput::After) toO[j] = fma(z, s[j], toO[j]);
        if (kRead) toRead[j] = fma(x2, s[j], toRead[j]);
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kScanVecs; ++j) {
      if (kOut != ScanOutput::None) o[j] += toO[j];
      if (kRead) read[j] += toRead[j];
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < kScanVecs; ++j) {
    if (kOut != ScanOutput::None) store(x.o + j * kLanes, o[j]);
    if (kRead) store(x.read + j * kLanes, read[j]);
  }
}

using ScanPass = void (*)(float*, int64_t, const ScanStep&);
template <bool kReset>
ScanPass scanPassOf(bool lowRank, bool read, bool output) {
  if (!lowRank)
    return output ? scanPass<false, false, ScanOutput::Before, kReset>
                  : scanPass<false, false, ScanOutput::None, kReset>;
  if (!output) return scanPass<true, true, ScanOutput::None, kReset>;
  return read ? scanPass<true, true, ScanOutput::After, kReset> : scanPass<true, false, ScanOutput::After, kReset>;
}

// read = a^T S, its sums in the order of a pass's.
__attribute__((noinline)) void scanRead(const float* S, int64_t K, const float* a, float* read) {
  Vec all[kScanVecs] = {};
  for (int64_t i0 = 0; i0 < K; i0 += kScanSumRows) {
    const int64_t i1 = K - i0 < kScanSumRows ? K : i0 + kScanSumRows;
    Vec part[kScanVecs] = {};
    for (int64_t i = i0; i < i1; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < kScanVecs; ++j) part[j] = fma(splat(a[i]), load(S + i * kScanBlock + j * kLanes), part[j]);
#pragma GCC unroll 4
    for (int j = 0; j < kScanVecs; ++j) all[j] += part[j];
  }
#pragma GCC unroll 4
  for (int j = 0; j < kScanVecs; ++j) store(read + j * kLanes, all[j]);
}

// Columns [c0, c0 + kScanBlock) of a state [K,V], as far as `end`, into [K][kScanBlock]: zeros beyond it, or without
// one.
inline void takeColumns(const float* state, int64_t K, int64_t V, int64_t c0, int64_t end, float* block) {
  const int64_t n = end - c0 < kScanBlock ? end - c0 : kScanBlock;
  if (!state || n < kScanBlock) std::memset(block, 0, static_cast<size_t>(K * kScanBlock) * sizeof(float));
  for (int64_t i = 0; state && i < K; ++i)
    std::memcpy(block + i * kScanBlock, state + i * V + c0, static_cast<size_t>(n) * sizeof(float));
}
inline void giveColumns(const float* block, int64_t K, int64_t V, int64_t c0, int64_t end, float* state) {
  const int64_t n = end - c0 < kScanBlock ? end - c0 : kScanBlock;
  for (int64_t i = 0; i < K; ++i)
    std::memcpy(state + i * V + c0, block + i * kScanBlock, static_cast<size_t>(n) * sizeof(float));
}

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
        blocks_((columns_ + kScanBlock - 1) / kScanBlock),
        ld_(blocks_ * kScanBlock),
        scratch_(alignFloats(blocks_ * p.K * kScanBlock) + 2 * alignFloats(pack_ * ld_) + alignFloats(ld_) +
                 alignFloats(kScanBlock) + alignFloats(p.K)),
        S_(scratch_.take(blocks_ * p.K * kScanBlock)),
        v_(scratch_.take(pack_ * ld_)),
        o_(scratch_.take(pack_ * ld_)),
        read_(scratch_.take(ld_)),
        p0_(scratch_.take(kScanBlock)),
        bonus_(scratch_.take(p.K)) {}

  void run() {
    const int64_t K = p_.K, state = p_.stateOffset(sequence_, h_);
    for (int64_t b = 0; b < blocks_; ++b)
      takeColumns(p_.initialState ? p_.initialState + state : nullptr, K, p_.V, c0_ + b * kScanBlock, c0_ + columns_,
                  S_ + b * K * kScanBlock);
    if (p_.bonus) widen(p_.bonus.data, p_.bonus.dtype, h_ * K, K, bonus_);
    // A pack's last token reads for the next one: its row of a is readied with the pack.
    ScanRows rows(p_, sequence_, h_, pack_ + 1, false);
    for (int64_t t0 = 0; t0 < T_; t0 += pack_) {
      if (p_.cancel && p_.cancel->load(std::memory_order_relaxed)) return;
      const int64_t count = T_ - t0 < pack_ ? T_ - t0 : pack_, ahead = t0 + count < T_ ? 1 : 0;
      rows.ready(t0, count + ahead);
      takeValues(t0, count);
      for (int64_t b = 0; b < blocks_; ++b) block(rows, b, t0 == 0, count, ahead);
      giveOutputs(rows, t0, count);
    }
    for (int64_t b = 0; b < blocks_ && p_.finalState; ++b)
      giveColumns(S_ + b * K * kScanBlock, K, p_.V, c0_ + b * kScanBlock, c0_ + columns_, p_.finalState + state);
  }

 private:
  int64_t valueAt(int64_t t) const { return ((p_.start(sequence_) + t) * p_.H + h_) * p_.V + c0_; }

  void takeValues(int64_t t0, int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
      float* row = v_ + t * ld_;
      if (columns_ < ld_) std::memset(row + ld_ - kScanBlock, 0, kScanBlock * sizeof(float));
      widen(p_.v.data, p_.v.dtype, valueAt(t0 + t), columns_, row);
    }
  }

  void giveOutputs(const ScanRows& rows, int64_t t0, int64_t count) {
    for (int64_t t = 0; t < count; ++t) {
      float* row = o_ + t * ld_;
      const float own = p_.bonus ? bonusOf(rows.row(ScanRows::kQ, t), rows.row(ScanRows::kK, t), bonus_, p_.K) : 0.0f;
      for (int64_t c = 0; c < ld_; c += kLanes) {
        Vec o = load(row + c);
        if (p_.bonus) o = fma(splat(own), load(v_ + t * ld_ + c), o);
        store(row + c, o * p_.scale);
      }
      narrow(row, columns_, p_.o, p_.oDType, valueAt(t0 + t));
    }
  }

  void block(const ScanRows& rows, int64_t b, bool first, int64_t count, int64_t ahead) {
    const bool lowRank = static_cast<bool>(p_.a);
    float *S = S_ + b * p_.K * kScanBlock, *read = read_ + b * kScanBlock;
    if (lowRank && first) scanRead(S, p_.K, rows.row(ScanRows::kA, 0), read);
    for (int64_t t = 0; t < count; ++t) {
      const bool last = t + 1 == count + ahead;
      ScanStep x{};
      x.q = rows.row(ScanRows::kQ, t);
      x.k = rows.row(ScanRows::kK, t);
      x.gain = rows.gain(t);
      x.keep = rows.keep(t);
      x.g = rows.row(ScanRows::kG, t);
      x.v = v_ + t * ld_ + b * kScanBlock;
      x.o = o_ + t * ld_ + b * kScanBlock;
      if (lowRank) {
        std::memcpy(p0_, read, kScanBlock * sizeof(float));
        x.b = rows.row(ScanRows::kB, t);
        x.next = last ? nullptr : rows.row(ScanRows::kA, t + 1);
        x.p = p0_;
        x.read = read;
      }
      (rows.resets(t) ? scanPassOf<true> : scanPassOf<false>)(lowRank, !last, true)(S, p_.K, x);
    }
  }

  const GatedScanForward& p_;
  const int64_t sequence_, h_, T_, pack_, c0_, columns_, blocks_, ld_;
  Scratch scratch_;
  float *S_, *v_, *o_, *read_, *p0_, *bonus_;
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
