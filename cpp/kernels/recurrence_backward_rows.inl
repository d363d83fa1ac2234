// What a piece of the backward reads, with its decays folded in: queries, keys, output gradients and updates.
namespace rankone {
namespace RANKONE_ISA_NS {

class PieceRows {
 public:
  explicit PieceRows(PieceBuffers& buffers) : p_(buffers) {}

  void pack() {
    packDecays();
    packRows();
    packUpdates();
  }

 private:
  void packDecays() {
    if (!p_.gated) return;
    decayRows(p_.rows, p_.channel, p_.t0, p_.a.K, p_.gate);
    if (p_.channel) {
      Vec least = zero();
      for (int64_t i = 0; i < p_.Kp; i += kLanes) {
        Vec c = zero(), rest = zero(), grow = splat(1), shrink = splat(1);
        const int n = static_cast<int>(p_.a.K - i < kLanes ? p_.a.K - i : kLanes);
        for (int t = p_.ct - 1; t >= 0; --t) {
          if (t < p_.ct - 1 && n > 0) {
            const Vec g = loadUpTo(ChannelGate::logDecays(p_.rows, p_.t0 + t + 1) + i, n);
            least = select(g < least, g, least);
            addExactly(c, rest, -g);
            expBoth(c, rest, grow, shrink);
          }
          store(p_.grow + t * p_.Kp + i, grow);
          store(p_.shrink + t * p_.Kp + i, shrink);
        }
        store(p_.unfold + i, shrink);
        if (n > 0) {
          const Vec g = loadUpTo(ChannelGate::logDecays(p_.rows, p_.t0) + i, n);
          least = select(g < least, g, least);
        }
      }
      p_.leastGate = -largest(-least);
    } else {
      double c = 0;
      p_.leastGate = 0;
      float low[kMaxChunkSteps + 16];
      for (int t = p_.ct - 1; t >= 0; --t) {
        p_.grow[t] = static_cast<float>(c);
        low[t] = static_cast<float>(c - static_cast<double>(p_.grow[t]));
        const float g = ScalarGate::logDecay(p_.rows, p_.t0 + t);
        p_.leastGate = g < p_.leastGate ? g : p_.leastGate;
        c -= static_cast<double>(g);
      }
      for (int64_t t = p_.ct; t < p_.half; ++t) p_.grow[t] = low[t] = 0;
      for (int t = 0; t < p_.ct; t += kLanes) {
        Vec grow, shrink;
        expBoth(load(p_.grow + t), load(low + t), grow, shrink);
        store(p_.grow + t, grow);
        store(p_.shrink + t, shrink);
      }
      for (int64_t i = 0; i < p_.Kp; ++i) p_.unfold[i] = p_.shrink[0];
      for (int s = 0; s < p_.c; ++s) {
        p_.growStep[s] = p_.grow[s / p_.n];
        p_.shrinkStep[s] = p_.shrink[s / p_.n];
      }
    }
  }

  // Queries, keys and output gradients, and what the steps of a pair owe each other.
  void packRows() {
    for (int x = 0; 2 * x < p_.c; ++x) p_.channel ? packPair<true>(x) : packPair<false>(x);
    for (int t = 0; t < p_.ct; ++t) {
      const float* from = p_.rows.dO(p_.t0 + t);
      float* d = p_.dO + t * p_.Vp;
      float by = p_.a.outputScale ? p_.a.scale * p_.a.outputScale[(p_.start + p_.t0 + t) * p_.a.H + p_.a.keyHead(p_.hv)]
                                  : p_.a.scale;
      if (p_.gated && !p_.channel) by *= p_.grow[t];
      const int64_t whole = p_.a.V / kLanes * kLanes;
      for (int64_t j = 0; j < whole; j += kLanes) store(d + j, load(from + j) * by);
      if (const int left = static_cast<int>(p_.a.V - whole)) store(d + whole, loadPart(from + whole, left) * by);
      for (int64_t j = roundUp(p_.a.V, kLanes); j < p_.Vp; j += kLanes) store(d + j, zero());
    }
  }

  template <bool kChannel>
  void packPair(int x) {
    const int s = 2 * x, t0 = s / p_.n, t1 = (s + 1) / p_.n;
    const bool two = s + 1 < p_.c, read0 = p_.lastOfToken(s), read1 = p_.lastOfToken(s + 1);
    const int64_t step = p_.firstStep() + s;
    const float *ka = p_.rows.k(step), *kb = two ? p_.rows.k(step + 1) : p_.zeroRow;
    const float *qa = read0 ? p_.rows.q(p_.t0 + t0) : p_.zeroRow, *qb = read1 ? p_.rows.q(p_.t0 + t1) : p_.zeroRow;
    float *k0 = p_.kRead + s * p_.Kp, *k1 = k0 + p_.Kp, *w0 = p_.kWrite + s * p_.Kp, *w1 = w0 + p_.Kp;
    float *q0 = p_.q + t0 * p_.Kp, *q1 = p_.q + t1 * p_.Kp;
    Vec q1k1 = zero(), q0k0 = zero(), q1k0 = zero(), k1k0 = zero();
    const auto body = [&](int64_t i, Vec y0, Vec y1, Vec z0, Vec z1) __attribute__((always_inline)) {
      Vec v0 = y0, v1 = y1;  // as they are written
      if constexpr (kChannel) {
        const Vec grow0 = load(p_.grow + t0 * p_.Kp + i), shrink0 = load(p_.shrink + t0 * p_.Kp + i);
        v0 = y0 * shrink0;
        y0 *= grow0;
        z0 *= grow0;
        store(w0 + i, v0);
        if (two) {
          const Vec grow1 = load(p_.grow + t1 * p_.Kp + i);
          v1 = y1 * load(p_.shrink + t1 * p_.Kp + i);
          y1 *= grow1;
          z1 *= grow1;
          store(w1 + i, v1);
        }
      }
      store(k0 + i, y0);
      if (two) store(k1 + i, y1);
      if (read0) store(q0 + i, z0);
      if (read1) store(q1 + i, z1);
      q1k1 = fma(z1, v1, q1k1);
      q0k0 = fma(z0, v0, q0k0);
      q1k0 = fma(z1, v0, q1k0);
      k1k0 = fma(y1, v0, k1k0);
    };
    const int64_t whole = p_.a.K / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) body(i, load(ka + i), load(kb + i), load(qa + i), load(qb + i));
    if (const int left = static_cast<int>(p_.a.K - whole))
      body(whole, loadPart(ka + whole, left), loadPart(kb + whole, left), loadPart(qa + whole, left),
           loadPart(qb + whole, left));
    for (int64_t i = roundUp(p_.a.K, kLanes); i < p_.Kp; i += kLanes) body(i, zero(), zero(), zero(), zero());
    sums(q1k1, q0k0, q1k0, k1k0, p_.dots[x]);
  }

  // UT = u^T, u- where decays are on this side.
  void packUpdates() {
    for (int s = 0; s < p_.c; ++s) {
      if (p_.delta) p_.beta[s] = p_.rows.beta(p_.firstStep() + s);
      p_.byU[s] = (p_.delta ? p_.beta[s] : 1) * p_.shrinkStep[s];
    }
    for (int64_t s = p_.c; s < p_.cPad; ++s) p_.byU[s] = 0;
    const ScaledByLane scaled{p_.byU};
    if (p_.delta) {
      transposed(p_.residuals, p_.Vp, p_.c, p_.Vp, p_.UT, p_.Cp, scaled);
    } else {
      const float* v = p_.rows.v(p_.firstStep());
      transposed(v, p_.c > 1 ? p_.rows.v(p_.firstStep() + 1) - v : 0, p_.c, p_.a.V, p_.UT, p_.Cp, scaled);
      for (int64_t j = p_.a.V; j < p_.Vp; ++j) std::memset(p_.UT + j * p_.Cp, 0, p_.Cp * sizeof(float));
    }
    p_.finiteUpdates = !p_.gated || finiteUpdates();
  }

  // In a sweep of its own: several sums at once, where the transposition would wait for one.
  bool finiteUpdates() const {
    Vec checks[4] = {zero(), zero(), zero(), zero()};
    for (int64_t s = 0; s < p_.cPad; s += kLanes)
      for (int64_t j = 0; j < p_.Vp; j += 4)
#pragma GCC unroll 4
        for (int x = 0; x < 4; ++x) checks[x] = fma(zero(), load(p_.UT + (j + x) * p_.Cp + s), checks[x]);
    return sum((checks[0] + checks[1]) + (checks[2] + checks[3])) == 0;
  }

  PieceBuffers& p_;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
