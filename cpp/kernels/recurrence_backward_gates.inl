// The gradient of a piece's gates, in either of the two ways of recurrence_gate_gradient.inl.
#include "kernels/recurrence_gate_gradient.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

class PieceGates {
  // Pieces in a row whose dg goes token by token, and how long its rows are for that.
  static constexpr int kGateSteps = 7, kFewestGateSums = 32;

 public:
  PieceGates(PieceBuffers& buffers, double* dgHead) : p_(buffers), dgHead_(dgHead) {}

  // Of the piece that has just been packed.
  void begin() {
    wanted_ = p_.gated && (p_.a.dg || dgHead_);
    stepwise_ = wanted_ && gateStepsSuffice();
  }
  bool stepwise() const { return stepwise_; }

  // D is that of the piece's end, S its first state, decayed if need be.
  void beforeScan(const float* S, const float* D) {
    if (wanted_ && !stepwise_ && p_.ct > 1) rowProducts(S, D, p_.through);
  }
  // Products by token and step are there, without what the steps owe each other; D is that of the piece's start.
  void afterProducts(const float* S0, const float* D) {
    if (wanted_ && !stepwise_) p_.ct == 1 ? rowProducts(S0, D, p_.dg) : gateGradient();
  }
  // Stepwise, p_.dg holds what each token adds.
  void write() {
    if (stepwise_) addGateSteps();
    if (wanted_) writeGateGradient();
  }

 private:
  // out[i]: row i of S0, decayed to the piece's first token, times row i of D.
  void rowProducts(const float* S0, const float* D, float* out) {
    const bool whole = p_.ct == 1;  // D is decayed already
    for (int64_t i = p_.a.K; i < p_.Kp; ++i) out[i] = 0;
    for (int64_t i = 0; i < p_.a.K; ++i) {
      Vec all = zero();
      for (int64_t j = 0; j < p_.blocks; ++j)
        for (int e = 0; e < kVecs; ++e) {
          const int64_t at = i * kBlock + e * kLanes;
          all = fma(load(p_.block(S0, j) + at), load(p_.block(D, j) + at), all);
        }
      out[i] = whole ? sum(all) : p_.gate[i] == 0 ? 0 : sum(all) * p_.unfold[i] * (p_.stateDecayed ? 1 : p_.gate[i]);
    }
  }

  void gateGradient() {
    const GatePaths paths{p_.ct, p_.n,  p_.Kp, p_.q, p_.kRead,       p_.writeKeys(),
                          p_.X,  p_.Xk, p_.Y,  p_.M, p_.M + p_.half, p_.through};
    if (p_.channel) {
      p_.delta ? gatePathSums<Delta>(paths, p_.dg) : gatePathSums<Additive>(paths, p_.dg);
    } else {
      transposed(p_.q, p_.Kp, p_.ct, p_.Kp, p_.XT, p_.Xp);
      transposed(p_.kRead, p_.Kp, p_.c, p_.Kp, p_.YT, p_.Cp);
      const Scalars keys{p_.YT, p_.Cp, p_.Kp};
      product<1>(p_.cPad, p_.half, keys, p_.XT, p_.Xp, p_.G, kGramLd, false);
      if (p_.delta) product<1>(p_.cPad, p_.cPad, keys, p_.YT, p_.Cp, p_.G + p_.half, kGramLd, false);
      p_.delta ? gatePathTotals<Delta>(paths, p_.G, p_.half, p_.dg)
               : gatePathTotals<Additive>(paths, p_.G, p_.half, p_.dg);
    }
  }

  // Whether dg can go on from that of the token after the piece. What is not finite must not come from later tokens,
  // and rounding errors start anew now and then.
  bool gateStepsSuffice() {
    if (stepsLeft_ == 0 || p_.leastGate < kMildGate || !p_.finiteUpdates || p_.a.K < kFewestGateSums) return false;
    Vec check = zero();
    for (int64_t i = 0; i < (p_.channel ? p_.Kp : kLanes); i += kLanes) check = fma(zero(), load(p_.dgNext + i), check);
    return sum(check) == 0;
  }

  void addGateSteps() {
    if (p_.channel) {
      for (int64_t i = 0; i < p_.Kp; i += kLanes) {
        Vec dg = load(p_.dgNext + i);
        for (int t = p_.ct - 1; t >= 0; --t) {
          dg += load(p_.dg + t * p_.Kp + i);
          store(p_.dg + t * p_.Kp + i, dg);
        }
      }
    } else {
      double dg = static_cast<double>(p_.dgNext[0]);
      for (int t = p_.ct - 1; t >= 0; --t) {
        dg += static_cast<double>(p_.dg[t]);
        p_.dg[t] = static_cast<float>(dg);
      }
    }
  }

  void writeGateGradient() {
    stepsLeft_ = stepwise_ ? stepsLeft_ - 1 : kGateSteps;
    for (int t = 0; t < p_.ct; ++t) {
      if (p_.channel) {
        const float *row = p_.dg + t * p_.Kp, *g = ChannelGate::logDecays(p_.rows, p_.t0 + t);
        float* to = p_.a.dg + ((p_.start + p_.t0 + t) * p_.a.HV + p_.hv) * p_.a.K;
        const int64_t whole = p_.a.K / kLanes * kLanes;
        for (int64_t i = 0; i < whole; i += kLanes)
          store(to + i, select(load(g + i) < kResetBelow, zero(), load(row + i)));
        for (int64_t i = whole; i < p_.a.K; ++i) to[i] = g[i] < kResetBelow ? 0.0f : row[i];
      } else {
        float dg = p_.dg[t];
        if (p_.ct == 1 && !stepwise_)
          for (int64_t i = 1; i < p_.a.K; ++i) dg += p_.dg[i];
        if (ScalarGate::logDecay(p_.rows, p_.t0 + t) < kResetBelow) dg = 0;
        if (t == 0) p_.dg[0] = dg;
        if (dgHead_)
          *dgHead_ += static_cast<double>(dg);
        else
          p_.a.dg[(p_.start + p_.t0 + t) * p_.a.HV + p_.hv] = dg;
      }
    }
    if (p_.channel) {
      for (int64_t i = 0; i < p_.Kp; i += kLanes)
        store(p_.dgNext + i, select(load(p_.gate + i) == 0.0f, zero(), load(p_.dg + i)));
    } else {
      p_.dgNext[0] = p_.dg[0];
    }
  }

  PieceBuffers& p_;
  double* dgHead_;
  bool wanted_ = false, stepwise_ = false;
  int stepsLeft_ = 0;  // how many more pieces dg may go on from dgNext
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
