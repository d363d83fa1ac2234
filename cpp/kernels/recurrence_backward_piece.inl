// Gradients of one piece of a chunk, all of whose decays fold.
//
// With c the log decay from a token to the piece's last (of the first token's own gate nothing, it stands outside),
// q+ = q e^c, k+ = k e^c, k- = k e^-c, and D~ = e^c dS, per step and in reverse:
//   D~ += q+ dO^T (a token's last step);  du = D~^T k-;  dv = beta du;  dp = -dv;  dbeta = du.r;  D~ += k+ dp^T
// where r = v - S^T k comes from the forward. Two steps share a pass over D~, as in the forward. Then, with S0 the
// state before the piece, DC the gradient at its end, u = beta r, M1 = dO u^T, M2 = dp u^T:
//   dq = e^c (S0 dO + sum_j M1 k-_j)
//   dk = e^c (S0 dp + sum_{j<s} M2 k-_j) + e^-c (DC u + sum M1 q+ + sum_{s>j} M2 k+)
// A gate per channel goes onto queries and keys as written; one per head or token onto the other side, dO+ = e^c dO,
// dp+ = e^c dp, u- = e^-c u, so that queries and keys stay what they are and gradients come out unfolded.
#include "kernels/recurrence_backward_buffers.inl"
#include "kernels/recurrence_backward_gates.inl"
#include "kernels/recurrence_backward_rows.inl"
#include "kernels/recurrence_backward_scan.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// The decay of a row of S0: of a product with S0 that had none yet, or what is to be unfolded of one that had it.
struct StateDecay {
  const float *gate, *unfold;
  bool inState;
  RANKONE_INLINE Vec operator()(Vec x, int64_t i) const {
    const Vec by = load(gate + i), unfolded = x * load(unfold + i);
    return inState ? unfolded : select(by == 0.0f, zero(), unfolded * by);
  }
};

// Where a value head's gradients of queries and keys go: rows `stride` floats apart.
struct KeyGradients {
  float *dq, *dk;
  int64_t stride;
};

class BackwardPiece {
 public:
  BackwardPiece(const RecurrenceBackward& a, const HeadRows& rows, const SavedGeometry& geometry, int64_t sequence,
                int64_t hv, const KeyGradients& to, double* dgHead)
      : p_(a, rows, geometry, sequence, hv),
        packed_(p_),
        scan_(p_),
        gates_(p_, dgHead),
        streamsKeys_(large(a) && streamable(to.dq, to.stride, a.K) && streamable(to.dk, to.stride, a.K)),
        to_(to) {}

  // Tokens [t0, t1), whose rows are prepared: D from the gradient of the state after them to that of S0. `before`: the
  // state that the chunk before starts from, if that one is next.
  void run(int64_t t0, int64_t t1, const float* S0, const float* before, const float* residuals, float* D) {
    p_.begin(t0, t1, residuals);
    packed_.pack();
    // YT = DC U^T
    product<kBlock>(p_.a.K, p_.cPad, {D, 1, kBlock, p_.blocks, p_.a.K * kBlock}, p_.UT, p_.Cp, p_.YT, p_.Cp, false);
    const float* S = decayedState(S0);
    gates_.begin();
    gates_.beforeScan(S, D);
    scan_.run(D, before);
    stateProducts(S);
    grams();
    unpackProducts();
    gates_.afterProducts(S0, D);
    addInnerTerms();
    gates_.stepwise() ? writeGradients<true>() : writeGradients<false>();
    gates_.write();
  }

 private:
  // ---- products

  // XT = S0 [dO^T | dP^T]
  void stateProducts(const float* S0) {
    transposed(p_.dO, p_.Vp, p_.ct, p_.Vp, p_.GT, p_.Xp);
    if (p_.delta) transposed(p_.dP, p_.Vp, p_.c, p_.Vp, p_.GT + p_.half, p_.Xp);
    product<kBlock>(p_.a.K, p_.across(), {S0, 1, kBlock, p_.blocks, p_.a.K * kBlock}, p_.GT, p_.Xp, p_.XT, p_.Xp,
                    false);
  }

  // M[j] = [u_j . dO | u_j . dP], of each only reads that come after the write: a token's outputs after all its steps.
  void grams() {
    constexpr int R = 2 * kTileRows;
    for (int64_t j = 0; j < p_.c; j += R) {
      const int64_t rows = p_.cPad - j < R ? p_.cPad - j : R;
      const int64_t read = j / p_.n / kLanes * kLanes, step = j / kLanes * kLanes;
      const auto part = [&](int64_t from, int64_t to) {
        product<1>(rows, to - from, {p_.UT + j, p_.Cp, p_.Vp}, p_.GT + from, p_.Xp, p_.M + j * kGramLd + from, kGramLd,
                   false);
      };
      if (p_.delta && step == 0) {
        part(read, p_.across());
      } else {
        part(read, p_.half);
        if (p_.delta) part(p_.half + step, p_.across());
      }
    }
    for (int j = 0; j < p_.c; ++j) {
      clearLanes(p_.M + j * kGramLd, j / p_.n);
      if (p_.delta) clearLanes(p_.M + j * kGramLd + p_.half, j + 1);
    }
  }

  static void clearLanes(float* row, int count) {
    for (int x = 0; x < count; ++x) row[x] = 0;
  }

  // S0 as it is where the products can take its decay afterwards, which would overflow where a large state is about to
  // go; else with the decay of the piece's first token.
  const float* decayedState(const float* S0) {
    p_.stateDecayed = p_.gated && p_.leastGate < kMildGate;
    if (!p_.stateDecayed) return S0;
    for (int64_t j = 0; j < p_.blocks; ++j)
      for (int64_t i = 0; i < p_.a.K; ++i)
        for (int e = 0; e < kVecs; ++e) {
          const int64_t at = i * kBlock + e * kLanes;
          store(p_.block(p_.S, j) + at, rescaled(load(p_.block(S0, j) + at), p_.gate[i]));
        }
    return p_.S;
  }

  // X, Xk and Y by token and step; the first two with the decay of S0.
  void unpackProducts() {
    for (int64_t i = p_.a.K; i < p_.Kp; ++i) {
      std::memset(p_.XT + i * p_.Xp, 0, p_.Xp * sizeof(float));
      std::memset(p_.YT + i * p_.Cp, 0, p_.Cp * sizeof(float));
    }
    const auto unpack = [&](const auto& decayed) {
      transposed(p_.XT, p_.Xp, p_.Kp, p_.ct, p_.X, p_.Kp, decayed);
      if (p_.delta) transposed(p_.XT + p_.half, p_.Xp, p_.Kp, p_.c, p_.Xk, p_.Kp, decayed);
    };
    if (p_.gated)
      unpack(StateDecay{p_.gate, p_.unfold, p_.stateDecayed});
    else
      unpack(Unchanged{});
    transposed(p_.YT, p_.Cp, p_.Kp, p_.c, p_.Y, p_.Kp);
  }

  // ---- gradients

  // What steps of the piece owe each other; only the triangles that are not zero.
  void addInnerTerms() {
    constexpr int R = kTileRows;
    for (int t = 0; t < p_.ct; t += R) {
      const int inner = (t + R) * p_.n < p_.c ? (t + R) * p_.n : p_.c;
      product<1>(R, p_.Kp, {p_.M + t, kGramLd, inner}, p_.writeKeys(), p_.Kp, p_.X + t * p_.Kp, p_.Kp, true);
    }
    for (int s = 0; s < p_.c; s += R) {
      const int t = s / p_.n, inner = s + R < p_.c ? s + R : p_.c;
      product<kGramLd>(R, p_.Kp, {p_.M + s * kGramLd + t, 1, p_.ct - t}, p_.q + t * p_.Kp, p_.Kp, p_.Y + s * p_.Kp,
                       p_.Kp, true);
      if (p_.delta) {
        product<1>(R, p_.Kp, {p_.M + p_.half + s, kGramLd, inner}, p_.writeKeys(), p_.Kp, p_.Xk + s * p_.Kp, p_.Kp,
                   true);
        product<kGramLd>(R, p_.Kp, {p_.M + s * kGramLd + p_.half + s, 1, p_.c - s}, p_.kRead + s * p_.Kp, p_.Kp,
                         p_.Y + s * p_.Kp, p_.Kp, true);
      }
    }
  }

  // kGateSteps: leaves in p_.dg what each token adds to the gates' gradients.
  template <bool kGateSteps>
  void writeGradients() {
    if (p_.delta)
      p_.channel ? writeGradients<kGateSteps, true, true>() : writeGradients<kGateSteps, false, true>();
    else
      p_.channel ? writeGradients<kGateSteps, true, false>() : writeGradients<kGateSteps, false, false>();
  }

  template <bool kGateSteps, bool kChannel, bool kDelta>
  void writeGradients() {
    for (int t = 0; t < p_.ct; ++t) {
      float* row = p_.dg + t * p_.Kp;
      Vec step = zero();
      writeRow(
          to_.dq + (p_.t0 + t) * to_.stride, [&](int64_t i) __attribute__((always_inline)) {
            const Vec x = load(p_.X + t * p_.Kp + i), q = load(p_.q + t * p_.Kp + i);
            if (kGateSteps && kChannel) store(row + i, x * q);
            if (kGateSteps && !kChannel) step = fma(x, q, step);
            return kChannel ? x * load(p_.grow + t * p_.Kp + i) : x;
          });
      for (int s = t * p_.n; s < (t + 1) * p_.n; ++s)
        writeRow(
            to_.dk + (p_.firstStep() + s) * to_.stride, [&](int64_t i) __attribute__((always_inline)) {
              const Vec y = load(p_.Y + s * p_.Kp + i), x = kDelta ? load(p_.Xk + s * p_.Kp + i) : zero();
              if (kGateSteps && kChannel) {
                const Vec without = fnma(load(p_.kWrite + s * p_.Kp + i), y, load(row + i));
                store(row + i, kDelta ? fma(load(p_.kRead + s * p_.Kp + i), x, without) : without);
              }
              if (kGateSteps && !kChannel) step = fma(load(p_.kRead + s * p_.Kp + i), x - y, step);
              if (!kChannel) return kDelta ? x + y : y;
              const Vec written = y * load(p_.shrink + t * p_.Kp + i);
              return kDelta ? fma(load(p_.grow + t * p_.Kp + i), x, written) : written;
            });
      if (kGateSteps && !kChannel) p_.dg[t] = sum(step);
    }
  }

  template <class F>
  RANKONE_INLINE void writeRow(float* to, F&& value) const {
    const int64_t whole = p_.a.K / kLanes * kLanes;
    const int left = static_cast<int>(p_.a.K - whole);
    if (streamsKeys_) {
      for (int64_t i = 0; i < whole; i += kLanes) streamStore(to + i, value(i));
    } else {
      for (int64_t i = 0; i < whole; i += kLanes) store(to + i, value(i));
      if (left) storePart(to + whole, value(whole), left);
    }
  }

  PieceBuffers p_;
  PieceRows packed_;
  ReverseScan scan_;
  PieceGates gates_;
  const bool streamsKeys_;
  const KeyGradients to_;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
