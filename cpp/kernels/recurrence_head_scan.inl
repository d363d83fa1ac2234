// Forward of the recurrence grid, S <- D(g) S, S <- (I - beta k k^T) S + beta k v^T (or S + k v^T), o = scale S^T q, in
// one sweep over the state per few updates.
//
// The state lives in column blocks that stay in the first cache. A delta pass over a block's rows applies the two
// pending rank-one writes of the pair before and takes the two reads k^T S, q^T S of each step of this pair: one load
// and one store of a state element for twelve flops. An additive pass writes and reads four tokens in order. Keys,
// queries, decays and what the steps of a pair owe each other (q.k, k.k) are prepared once per head.
// Accumulation float32, cumulative log decays in twice that; error 1e-7 to 1e-6 against float64.
// Sources: Katharopoulos et al. 2020 (linear attention), Yang et al. 2023 (GLA), Schlag et al. 2021 and Yang et al.
// 2024 (delta rule, gated delta rule), Siems et al. 2025 (Householder products).
#include "kernels/recurrence_scan_sweep.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

inline bool allFinite(const float* x, int64_t n) {
  float all = 0;
  for (int64_t i = 0; i < n; ++i) all += 0 * x[i];
  return all == 0;
}

// What a block of columns depends on: its values and state (other tasks may be writing others already), keys, queries,
// strengths and gates of the head (-Inf is a reset).
inline bool finiteInputs(const RecurrenceForward& a, HeadRows& rows, int64_t sequence, int64_t hv, int64_t block) {
  const int64_t column = block * kBlock, width = a.V - column < kBlock ? a.V - column : kBlock, T = a.length(sequence);
  const int64_t gates = a.gate == GateKind::None ? 0 : a.gate == GateKind::Channel ? a.K : 1;
  for (int64_t i = 0; i < a.K && a.initialState; ++i)
    if (!allFinite(a.initialState + a.stateOffset(sequence, hv) + i * a.V + column, width)) return false;
  for (int64_t t = 0; t < T; ++t) {
    if (t % a.packTokens == 0) rows.prepare(t, T - t < a.packTokens ? T - t : a.packTokens);
    bool yes = allFinite(rows.q(t), a.K);
    for (int64_t s = t * a.n; s < (t + 1) * a.n; ++s) {
      yes = yes && allFinite(rows.k(s), a.K) && allFinite(rows.v(s) + column, width);
      if (a.update == UpdateRule::Delta) yes = yes && std::isfinite(rows.beta(s));
    }
    for (int64_t i = 0; i < gates; ++i) yes = yes && rows.g(t)[i] <= std::numeric_limits<float>::max();
    if (!yes) return false;
  }
  return true;
}

// One sequence and value head, column blocks [block0, block1). Shared by the forward and by the backward's
// recomputation.
template <class Gate, class Update>
class HeadScan {
 public:
  HeadScan(const RecurrenceForward& a, int64_t sequence, int64_t hv, int64_t block0, int64_t block1,
           float foldLimit = kFoldLimit)
      : a_(a),
        sequence_(sequence),
        T_(a.length(sequence)),
        hv_(hv),
        block0_(block0),
        blocks_(block1 - block0),
        foldLimit_(foldLimit),
        scratch_(ScanRows::scratchFloats(a) + ScanBlocks::scratchFloats(a, blocks_)),
        state_(a, sequence, hv, block0, block1, scratch_),
        pack_(a, sequence, hv, block0 * kBlock, block1 * kBlock, foldLimit, scratch_) {}

  void run() {
    scan();
    for (int64_t j = 0; j < blocks_; ++j) {
      if (overflowed(j))
        HeadScan(a_, sequence_, hv_, block0_ + j, block0_ + j + 1, kSmallFoldLimit).run();
      else if (a_.finalState)
        state_.storeFinalState(j);
    }
  }

 private:
  void scan() {
    const int64_t steps = T_ * a_.n, most = a_.packTokens * a_.n;
    for (int64_t s0 = 0; s0 < steps; s0 += most) {
      if (a_.savedStates) {
        state_.settle(pack_);
        state_.saveStates(s0 / most);
      }
      const int count = static_cast<int>(steps - s0 < most ? steps - s0 : most);
      pack_.pack(s0, count);
      state_.sweep(pack_, s0, count);
      if (Update::kDelta) pack_.keepPending();
      if (a_.cancel && a_.cancel->load(std::memory_order_relaxed)) return;
    }
    state_.settle(pack_);
  }

  // A folded value is up to e^kFoldLimit larger than what it stands for. Where that leaves float32, the scan is done
  // again with hardly any folding, block by block: the bits of a block do not depend on which others its task had.
  // Where an input is not finite nothing has overflowed, and a second scan would only change the bits of what does not
  // depend on it.
  bool overflowed(int64_t j) {
    return foldLimit_ > kSmallFoldLimit && !std::is_same_v<Gate, NoGate> && state_.overflowed(j) &&
           finiteInputs(a_, pack_.rows(), sequence_, hv_, block0_ + j);
  }

  const RecurrenceForward& a_;
  const int64_t sequence_, T_, hv_, block0_, blocks_;
  const float foldLimit_;
  Scratch scratch_;
  ScanBlocks state_;
  ScanPack<Gate, Update> pack_;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
