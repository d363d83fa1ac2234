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
        scratch_(ScanPack<Gate, Update>::scratchFloats(a) + ScanBlocks<Gate, Update>::scratchFloats(a, blocks_)),
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
  bool overflowed(int64_t j) {
    return foldLimit_ > kSmallFoldLimit && !std::is_same_v<Gate, NoGate> && state_.overflowed(j) && finiteInputs(j);
  }

  static bool finite(const float* x, int64_t n) {
    float all = 0;
    for (int64_t i = 0; i < n; ++i) all += 0 * x[i];
    return all == 0;
  }

  // What the block depends on: its columns of values and state (other tasks may be writing the others already), keys,
  // queries, strengths and gates of the head (-Inf is a reset). Where one is not finite nothing has overflowed, and a
  // second scan would only change the bits of what does not depend on it.
  bool finiteInputs(int64_t j) {
    const int64_t column = (block0_ + j) * kBlock, width = a_.V - column < kBlock ? a_.V - column : kBlock;
    for (int64_t i = 0; i < a_.K && a_.initialState; ++i)
      if (!finite(a_.initialState + a_.stateOffset(sequence_, hv_) + i * a_.V + column, width)) return false;
    HeadRows& rows = pack_.rows();
    for (int64_t t = 0; t < T_; ++t) {
      if (t % a_.packTokens == 0) rows.prepare(t, T_ - t < a_.packTokens ? T_ - t : a_.packTokens);
      bool yes = finite(rows.q(t), a_.K);
      for (int64_t s = t * a_.n; s < (t + 1) * a_.n; ++s) {
        yes = yes && finite(rows.k(s), a_.K) && finite(rows.v(s) + column, width);
        if (Update::kDelta) yes = yes && std::isfinite(rows.beta(s));
      }
      if constexpr (Gate::kPerChannel) {
        for (int64_t i = 0; i < a_.K; ++i) yes = yes && rows.g(t)[i] <= std::numeric_limits<float>::max();
      } else {
        yes = yes && Gate::logDecay(rows, t) <= std::numeric_limits<float>::max();
      }
      if (!yes) return false;
    }
    return true;
  }

  const RecurrenceForward& a_;
  const int64_t sequence_, T_, hv_, block0_, blocks_;
  const float foldLimit_;
  Scratch scratch_;
  ScanBlocks<Gate, Update> state_;
  ScanPack<Gate, Update> pack_;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
