// The reverse scan of a piece of the backward: two steps share a pass over the gradient of the state.
#include "kernels/recurrence_reverse_pass.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

class ReverseScan {
 public:
  explicit ReverseScan(PieceBuffers& buffers)
      : p_(buffers), streamsValues_(large(p_.a) && streamable(p_.a.dv, p_.a.V, p_.a.V)) {}

  // dp, dv and dbeta of all steps, D back to the state before the piece. `before`: the state that the chunk before
  // starts from, if that one is next.
  void run(float* D, const float* before) {
    before_ = before;
    if (p_.delta) std::memset(p_.dbeta, 0, p_.c * kLanes * sizeof(float));
    startFetching();
    p_.delta ? scanAll<true>(D) : scanAll<false>(D);
    if (!p_.delta || !p_.a.dbeta) return;
    for (int s = 0; s < p_.c; ++s)
      p_.a.dbeta[((p_.start + p_.t0) * p_.n + s) * p_.a.HV + p_.hv] =
          sum(load(p_.dbeta + s * kLanes)) * p_.shrinkStep[s];
  }

 private:
  template <bool kDelta>
  void scanAll(float* D) {
    constexpr int kTogether = kDelta ? kWide : 1;
    int64_t j = 0;
    for (; j + 2 <= p_.blocks; j += 2) scanBlocks<kDelta, kTogether, 2 / kTogether>(D, j);
    if (j < p_.blocks) scanBlocks<kDelta, 1, 1>(D, j);
  }

  // kGroups groups of kBlocks blocks from j on take turns, which hides the latency between a group's passes.
  template <bool kDelta, int kBlocks, int kGroups>
  void scanBlocks(float* D, int64_t j) {
    for (int x = (p_.c + 1) / 2 - 1; x >= -1; --x) {
      if (j == 0 && before_ && x >= 0) fetchRows(x);
      for (int g = 0; g < kGroups; ++g) {
        Vec d[2 * kBlocks * kVecs] = {};
        Vec* w = reinterpret_cast<Vec*>(p_.writes + g * 4 * kBlocks * kBlock);
        runPass<kDelta, kBlocks>(p_.block(D, j + g * kBlocks), 2 * x, w, d);
        if (x >= 0) reverseStep<kDelta, kBlocks>(x, (j + g * kBlocks) * kBlock, w, d);
      }
    }
  }

  // What the next piece reads lies too far apart, or runs backwards, for the hardware's prefetcher. State and
  // residuals, which are contiguous, come bit by bit with the rows of all passes: a burst would hold up the passes' own
  // loads.
  void startFetching() {
    const int64_t state = p_.blocks * p_.a.K * kBlock, residuals = p_.delta ? p_.c * p_.Vp : 0;
    fetch_[0] = {before_, before_ ? before_ + state : nullptr};
    fetch_[1] = {before_ ? p_.residuals - residuals : nullptr, before_ ? p_.residuals : nullptr};
    const int64_t wide = p_.delta ? kWide : 1;
    const int64_t rows = ((p_.blocks + wide - 1) / wide) * ((p_.c + 1) / 2 + 1) * p_.a.K;
    fetchStep_ = (state + residuals + rows - 1) / rows;
  }

  void fetchLines(ReverseRows& rows) {
    rows.fetch = p_.zeroRow;
    rows.fetchStep = 0;
    for (auto& range : fetch_) {
      if (range.at >= range.end) continue;
      rows.fetch = range.at;
      rows.fetchStep = fetchStep_;
      range.at += p_.a.K * fetchStep_;
      return;
    }
  }

  void fetchRows(int x) const {
    const auto fetch = [&](const FloatView& rows, int64_t row, int64_t heads, int64_t head, int64_t width)
        __attribute__((always_inline)) {
      if (!rows) return;
      const char *p = rows.at((row * heads + head) * width), *last = rows.at((row * heads + head + 1) * width);
      for (; p < last; p += 64) __builtin_prefetch(p, 0, 2);
    };
    const int64_t head = p_.a.keyHead(p_.hv);
    for (int64_t s = p_.firstStep() - p_.c + 2 * x; s < p_.firstStep() - p_.c + 2 * x + 2; ++s) {
      const int64_t step = p_.start * p_.n + s, t = s / p_.n;
      if (s < 0) continue;
      fetch(p_.a.k, step, p_.a.H, head, p_.a.K);
      if (!p_.delta) fetch(p_.a.v, step, p_.a.HV, p_.hv, p_.a.V);
      if (p_.n > 1 && s % p_.n != 0) continue;
      fetch(p_.a.q, p_.start + t, p_.a.H, head, p_.a.K);
      fetch(p_.a.dO, p_.start + t, p_.a.HV, p_.hv, p_.a.V);
      if (p_.channel) fetch(p_.a.g, p_.start + t, p_.a.HV, p_.hv, p_.a.K);
    }
  }

  // The reads of steps s and s + 1, after the writes of the pair that follows.
  template <bool kDelta, int kBlocks>
  void runPass(float* D, int s, const Vec* w, Vec* d) {
    using Passes = ReversePasses<kBlocks, kDelta>;
    const int pending = s + 2;
    const bool last0 = p_.lastOfToken(pending), last1 = p_.lastOfToken(pending + 1);
    ReverseRows rows{p_.queryOf(pending),
                     p_.queryOf(pending + 1),
                     p_.rowOf(p_.kRead, pending),
                     p_.rowOf(p_.kRead, pending + 1),
                     s < 0 ? p_.zeroRow : p_.writeKeys() + s * p_.Kp,
                     s < 0 ? p_.zeroRow : p_.rowOf(p_.writeKeys(), s + 1),
                     p_.unfold,
                     p_.gate,
                     nullptr,
                     0};
    fetchLines(rows);
    const auto pass = s < 0 ? Passes::kLast : pending >= p_.c ? Passes::kFirst : Passes::middle(last0, last1);
    inStretches(p_.a.K, [&](int64_t i0, int64_t i1) { pass(D, p_.a.K * kBlock, i0, i1, rows, w, d); });
  }

  // d: what the pair's keys read. Leaves in w what the pair writes.
  template <bool kDelta, int kBlocks>
  void reverseStep(int x, int64_t column, Vec* w, const Vec* d) {
    constexpr int kN = kBlocks * kVecs;
    const int s0 = 2 * x, s1 = s0 + 1;
    const bool two = s1 < p_.c;
    const Vec q1k1 = splat(p_.dots[x][0]), q0k0 = splat(p_.dots[x][1]), q1k0 = splat(p_.dots[x][2]),
              k1k0 = splat(p_.dots[x][3]);
    const float* dO0 = p_.lastOfToken(s0) ? p_.dO + s0 / p_.n * p_.Vp + column : p_.zeroRow;
    const float* dO1 = p_.lastOfToken(s1) ? p_.dO + s1 / p_.n * p_.Vp + column : p_.zeroRow;
    float* dv0 = p_.a.dv + (((p_.start + p_.t0) * p_.n + s0) * p_.a.HV + p_.hv) * p_.a.V + column;
    float* dv1 = dv0 + p_.a.HV * p_.a.V;
    const int64_t left = p_.a.V - column;
    const auto write = [&](float* to, int e, Vec value) __attribute__((always_inline)) {
      const int64_t here = left - e * kLanes;
      if (here >= kLanes)
        streamsValues_ ? streamStore(to + e * kLanes, value) : store(to + e * kLanes, value);
      else if (here > 0)
        storePart(to + e * kLanes, value, static_cast<int>(here));
    };
    const Vec unfold0 = splat(p_.shrinkStep[s0]), unfold1 = splat(two ? p_.shrinkStep[s1] : 0);
    if constexpr (kDelta) {
      const Vec beta0 = splat(-p_.beta[s0]), beta1 = splat(two ? -p_.beta[s1] : 0);
      const float *r0 = p_.residuals + s0 * p_.Vp + column, *r1 = two ? r0 + p_.Vp : p_.zeroRow;
      float *dp0 = p_.dP + s0 * p_.Vp + column, *dp1 = dp0 + p_.Vp;
      Vec db0 = load(p_.dbeta + s0 * kLanes), db1 = two ? load(p_.dbeta + s1 * kLanes) : zero();
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
      store(p_.dbeta + s0 * kLanes, db0);
      if (two) store(p_.dbeta + s1 * kLanes, db1);
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

  PieceBuffers& p_;
  const bool streamsValues_;
  const float* before_ = nullptr;
  struct {
    const float *at, *end;
  } fetch_[2];
  int64_t fetchStep_ = 0;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
