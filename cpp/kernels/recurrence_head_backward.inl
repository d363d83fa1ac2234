// Gradients of the recurrence grid, one sequence and value head at a time, in chunks from the last to the first.
//
// A chunk splits before a token that is a reset or takes the log decay beyond what folds; its inner start states are
// computed again from the chunk's and the updates. Memory: T/chunk states and one residual row per step. Accumulation
// float32. Sources: Yang et al. 2023 (chunkwise gated linear attention), Yang et al. 2024 (chunkwise delta rule).
#include "kernels/recurrence_head_scan.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int kMaxChunkSteps = 32;
// Row stride of the products of a piece's steps with each other.
constexpr int kGramLd = 2 * kMaxChunkSteps;

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

#include "kernels/recurrence_backward_piece.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// The second one holds where positive gates let states and gradients grow: their products with e^c must not overflow.
constexpr float kChunkFold = 50.0f, kGrowingChunkFold = 20.0f;

class HeadBackward {
 public:
  HeadBackward(const RecurrenceBackward& a, int64_t sequence, int64_t hv, const KeyGradients& to, double* dgHead)
      : a_(a),
        sequence_(sequence),
        hv_(hv),
        gated_(a.gate != GateKind::None),
        channel_(a.gate == GateKind::Channel),
        delta_(a.update == UpdateRule::Delta),
        T_(a.length(sequence)),
        geometry_(savedGeometry(a.n, a.K, a.V)),
        CT_(geometry_.chunkTokens),
        Kp_(roundUp(a.K, 16)),
        Vp_(roundUp(a.V, kBlock)),
        blocks_(Vp_ / kBlock),
        scratch_(alignFloats(geometry_.stateFloats) + alignFloats(Kp_) + alignFloats(Vp_)),
        rows_(a, a.dO, sequence, hv, CT_, 0, a.V),
        piece_(a, rows_, geometry_, sequence, hv, to, dgHead) {
    D_ = scratch_.take(geometry_.stateFloats);
    decay_ = scratch_.take(Kp_);
    u_ = scratch_.take(Vp_);
  }

  void run() {
    const float *states = a_.savedStates, *residuals = a_.savedResiduals;
    AlignedBuffer own;
    if (states) {
      states += geometry_.stateAt(a_, sequence_, hv_);
      if (residuals) residuals += geometry_.residualAt(a_, sequence_, hv_);
    } else {
      own = recompute();
      states = own.f32();
      residuals = states + geometry_.chunks(T_) * geometry_.stateFloats;
    }
    for (int64_t j = 0; j < blocks_; ++j) {
      if (a_.dFinalState)
        loadBlock(a_.dFinalState + a_.stateOffset(sequence_, hv_), a_.K, a_.V, j, block(D_, j));
      else
        std::memset(block(D_, j), 0, a_.K * kBlock * sizeof(float));
    }
    fold_ = growth() > 10 ? kGrowingChunkFold : kChunkFold;
    for (int64_t chunk = geometry_.chunks(T_) - 1; chunk >= 0; --chunk) {
      if (a_.cancel && a_.cancel->load(std::memory_order_relaxed)) return;
      const int64_t t0 = chunk * CT_, t1 = T_ < t0 + CT_ ? T_ : t0 + CT_;
      rows_.prepare(t0, t1 - t0);
      runChunk(t0, t1, states + chunk * geometry_.stateFloats, residuals);
    }
    for (int64_t j = 0; j < blocks_ && a_.dInitialState; ++j)
      storeBlock(block(D_, j), a_.K, a_.V, j, a_.dInitialState + a_.stateOffset(sequence_, hv_));
    finishStreaming();
  }

 private:
  // States and residuals as a forward with saveForBackward leaves them, of this head alone.
  AlignedBuffer recompute() const {
    const size_t states = geometry_.chunks(T_) * geometry_.stateFloats;
    const size_t residuals = delta_ ? T_ * a_.n * geometry_.residualFloats : 0;
    AlignedBuffer own((states + residuals) * sizeof(float));
    RecurrenceForward f{};
    static_cast<RecurrenceProblem&>(f) = a_;
    f.packTokens = CT_;
    f.savedStates = own.f32();
    f.savedResiduals = delta_ ? own.f32() + states : nullptr;
    f.savedOneHead = true;
    withCell(f, [&](auto gate, auto update) {
      HeadScan<decltype(gate), decltype(update)>(f, sequence_, hv_, 0, blocks_).run();
    });
    return own;
  }

  float* block(float* state, int64_t j) const { return state + j * a_.K * kBlock; }

  // A bound on how much positive log gates can make the state grow.
  double growth() {
    if (!gated_) return 0;
    if (!channel_) return totalGrowth<ScalarGate>(rows_, T_, a_.K, CT_);
    return anyGrowth() ? totalGrowth<ChannelGate>(rows_, T_, a_.K, CT_) : 0;
  }

  // Whether any log gate per channel is positive.
  bool anyGrowth() {
    Vec most = zero();
    for (int64_t t = 0; t < T_; ++t) {
      if (t % CT_ == 0) rows_.prepare(t, T_ - t < CT_ ? T_ - t : CT_, HeadRows::kGates);
      const float* g = ChannelGate::logDecays(rows_, t);
      for (int64_t i = 0; i < a_.K; i += kLanes) {
        const Vec x = loadUpTo(g + i, static_cast<int>(a_.K - i < kLanes ? a_.K - i : kLanes));
        most = select(x > most, x, most);
      }
    }
    return largest(most) > 0;
  }

  // Tokens [t0, t1) from the state S0, pieces last to first.
  void runChunk(int64_t t0, int64_t t1, const float* S0, const float* residuals) {
    int64_t starts[kMaxChunkSteps + 1];
    int pieces = 0;
    for (int64_t t = t0; t < t1; t = pieceEnd(t, t1)) starts[pieces++] = t;
    starts[pieces] = t1;
    const size_t size = geometry_.stateFloats;
    if (pieces > 1) {
      if (inner_.bytes() == 0) inner_ = AlignedBuffer((CT_ - 1) * size * sizeof(float));
      for (int x = 1; x < pieces; ++x) {
        float* to = inner_.f32() + (x - 1) * size;
        std::memcpy(to, x == 1 ? S0 : to - size, size * sizeof(float));
        advanceState(to, starts[x - 1], starts[x], residuals);
      }
    }
    for (int x = pieces - 1; x >= 0; --x) {
      const float* before = x == 0 && t0 > 0 ? S0 - size : nullptr;
      piece_.run(starts[x], starts[x + 1], x ? inner_.f32() + (x - 1) * size : S0, before, residuals, D_);
    }
  }

  int64_t pieceEnd(int64_t t0, int64_t t1) {
    if (!gated_) return t1;
    if (channel_) {
      for (int64_t i = 0; i < a_.K; i += kLanes) t1 = foldedEnd(i, t0, t1);
    } else {
      double sum = 0;
      for (int64_t t = t0 + 1; t < t1; ++t) {
        const double g = ScalarGate::logDecay(rows_, t);
        sum += g;
        if (!(std::fabs(sum) <= fold_ && g >= kResetBelow)) return t;
      }
    }
    return t1;
  }

  // pieceEnd() for the channels of the vector from i on.
  int64_t foldedEnd(int64_t i, int64_t t0, int64_t t1) const {
    const int lanes = static_cast<int>(a_.K - i < kLanes ? a_.K - i : kLanes);
    const auto over = [&](Vec & sums, int64_t t) __attribute__((always_inline)) {
      const Vec g = loadUpTo(ChannelGate::logDecays(rows_, t) + i, lanes);
      sums += g;
      return select(abs(sums) <= fold_, select(g >= kResetBelow, zero(), splat(1)), splat(1));
    };
    Vec sums = zero(), all = zero();
    for (int64_t t = t0 + 1; t < t1; ++t) all += over(sums, t);
    if (sum(all) == 0) return t1;
    sums = zero();
    int64_t t = t0 + 1;
    while (sum(over(sums, t)) == 0) ++t;
    return t;
  }

  // S through tokens [t0, t1) of a gated problem (without gates a chunk is one piece), its updates known: u = beta r.
  void advanceState(float* S, int64_t t0, int64_t t1, const float* residuals) {
    for (int64_t t = t0; t < t1; ++t) {
      decayRows(rows_, channel_, t, a_.K, decay_);
      for (int64_t s = t * a_.n; s < (t + 1) * a_.n; ++s) {
        updateRow(s, residuals);
        const float* k = rows_.k(s);
        for (int64_t j = 0; j < blocks_; ++j)
          for (int64_t i = 0; i < a_.K; ++i)
            for (int e = 0; e < kVecs; ++e) {
              float* at = block(S, j) + i * kBlock + e * kLanes;
              const Vec before = s == t * a_.n ? rescaled(load(at), decay_[i]) : load(at);
              store(at, fma(splat(k[i]), load(u_ + j * kBlock + e * kLanes), before));
            }
      }
    }
  }

  // u of step s, [Vp].
  void updateRow(int64_t s, const float* residuals) {
    if (delta_) {
      const Vec beta = splat(rows_.beta(s));
      for (int64_t j = 0; j < Vp_; j += kLanes) store(u_ + j, beta * load(residuals + s * Vp_ + j));
    } else {
      std::memcpy(u_, rows_.v(s), a_.V * sizeof(float));
      std::memset(u_ + a_.V, 0, (Vp_ - a_.V) * sizeof(float));
    }
  }

  const RecurrenceBackward& a_;
  const int64_t sequence_, hv_;
  const bool gated_, channel_, delta_;
  const int64_t T_;
  const SavedGeometry geometry_;
  const int64_t CT_, Kp_, Vp_, blocks_;  // tokens of a chunk; padded sizes
  Scratch scratch_;
  HeadRows rows_;
  BackwardPiece piece_;
  float* D_;             // [blocks][K][kBlock] gradient of the state
  float *decay_, *u_;    // [Kp] [Vp]
  AlignedBuffer inner_;  // states inside a chunk
  float fold_ = kChunkFold;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
