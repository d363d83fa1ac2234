// Sizes and buffers of the piece at hand, which the backward's phases share.
#include "kernels/recurrence_products.inl"
#include "kernels/recurrence_streaming.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// Gates that leave most of the state.
constexpr float kMildGate = -2.0f;
// Column blocks that a reverse pass of delta steps takes at once: as many as leave the writes' and the reads' vectors
// in registers.
constexpr int kWide = kLanes == 16 ? 2 : 1;

// The grid's cell is known at run time here and in what works on the buffers, but for the loops over rows: a piece is
// work enough.
struct PieceBuffers {
  PieceBuffers(const RecurrenceBackward& a, const HeadRows& rows, const SavedGeometry& geometry, int64_t sequence,
               int64_t hv)
      : gated(a.gate != GateKind::None),
        channel(a.gate == GateKind::Channel),
        delta(a.update == UpdateRule::Delta),
        a(a),
        rows(rows),
        start(a.start(sequence)),
        hv(hv),
        Kp(roundUp(a.K, 16)),
        Vp(roundUp(a.V, kBlock)),
        Tp(roundUp(geometry.chunkTokens, 16)),
        Cp(roundUp(geometry.chunkTokens * a.n, 16)),
        Xp(Tp + (delta ? Cp : 0)),
        blocks(Vp / kBlock),
        n(static_cast<int>(a.n)),
        scratch_(scratchFloats()) {
    eachBuffer([&](float*& p, int64_t floats) { p = scratch_.take(floats); });
    std::memset(zeroRow, 0, (Kp + Vp) * sizeof(float));
    std::memset(dgNext, 0, Kp * sizeof(float));
    for (int64_t i = 0; i < Kp; ++i) gate[i] = unfold[i] = 1;
    for (int64_t s = 0; s < Cp; ++s) growStep[s] = shrinkStep[s] = 1;
  }

  // Tokens [begin, end), whose rows are prepared.
  void begin(int64_t begin, int64_t end, const float* allResiduals) {
    t0 = begin;
    ct = static_cast<int>(end - begin);
    c = ct * n;
    half = roundUp(ct, kLanes);
    cPad = roundUp(c, kLanes);
    residuals = delta ? allResiduals + begin * a.n * Vp : nullptr;
  }

  int64_t firstStep() const { return t0 * n; }
  int64_t across() const { return half + (delta ? cPad : 0); }
  const float* writeKeys() const { return channel ? kWrite : kRead; }
  bool lastOfToken(int s) const { return s < c && (n == 1 || s % n == n - 1); }
  const float* queryOf(int s) const { return lastOfToken(s) ? q + s / n * Kp : zeroRow; }
  const float* rowOf(const float* rows, int s) const { return s < c ? rows + s * Kp : zeroRow; }
  float* block(float* state, int64_t j) const { return state + j * a.K * kBlock; }
  const float* block(const float* state, int64_t j) const { return state + j * a.K * kBlock; }

  const bool gated, channel, delta;
  const RecurrenceBackward& a;
  const HeadRows& rows;
  const int64_t start, hv, Kp, Vp, Tp, Cp, Xp, blocks;  // padded: rows, columns, tokens, steps, both
  const int n;
  float *q, *kRead, *kWrite = nullptr;  // [tokens or steps][Kp]: q+, k+, and k- where that is another
  float *dO, *dP;                       // [tokens or steps][Vp], times scale
  float *UT, *GT, *YT, *XT;             // [Vp][Cp] [Vp][Xp] [Kp][Cp] [Kp][Xp]
  float *X, *Xk, *Y;                    // [tokens or steps][Kp]
  float *M, *G;                         // [steps][kGramLd]
  float *grow, *shrink;                 // e^c, e^-c: [tokens][Kp] per channel, else [tokens]
  float *growStep, *shrinkStep;         // [steps] of a gate per head or token, else 1
  float *beta, *byU;                    // [steps]
  float *gate, *unfold, *through;       // [Kp] e^g of the first token, e^-c of it; paths through the whole piece
  float* S = nullptr;                   // S0, decayed
  float* dgNext;                        // dg of the token after the piece: [Kp] per channel, else one
  float *dg, *writes, *dbeta, *zeroRow;
  float dots[kMaxChunkSteps / 2 + 1][4];  // of a pair: q1.k1, q0.k0, q1.k0, k1.k0
  const float* residuals = nullptr;       // of the piece's first step on
  int64_t t0 = 0, half = 0, cPad = 0;     // tokens and steps in whole vectors
  float leastGate = 0;
  bool finiteUpdates = false, stateDecayed = false;
  int ct = 0, c = 0;  // tokens and steps of the piece at hand

 private:
  template <class F>
  void eachBuffer(F&& f) {
    const int64_t T = Tp, C = Cp;
    f(q, T * Kp);
    f(kRead, C * Kp);
    if (channel) f(kWrite, C * Kp);
    f(dO, T * Vp);
    f(dP, C * Vp);
    f(UT, Vp * C);
    f(GT, Vp * Xp);
    f(YT, Kp * C);
    f(XT, Kp * Xp);
    f(X, T * Kp);
    f(Xk, C * Kp);
    f(Y, C * Kp);
    f(M, C * kGramLd);
    f(G, C * kGramLd);
    f(grow, channel ? T * Kp : T);
    f(shrink, channel ? T * Kp : T);
    f(growStep, C);
    f(shrinkStep, C);
    f(beta, C);
    f(byU, C);
    f(gate, Kp);
    f(unfold, Kp);
    f(through, Kp);
    if (gated) f(S, blocks * a.K * kBlock);
    f(dg, channel ? T * Kp : T + Kp);
    f(dgNext, Kp);
    f(writes, kWide * 2 * 4 * kBlock);
    f(dbeta, C * kLanes);
    f(zeroRow, Kp + Vp);
  }

  size_t scratchFloats() {
    size_t all = 0;
    eachBuffer([&](float*&, int64_t floats) { all += alignFloats(static_cast<size_t>(floats)); });
    return all;
  }

  Scratch scratch_;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
