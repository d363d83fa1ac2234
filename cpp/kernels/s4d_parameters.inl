// From S4D's parameters to those of its recurrence, in float64, and from the gradients of these back. Part of s4d.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kModeRows = 6;  // Abar, Bbar, 2 C, each re and im

inline int64_t modeStripes(const S4dProblem& p) { return (p.D + kDoubles - 1) / kDoubles; }
// Of a stripe: [M][kModeRows][kDoubles], then the skip.
inline int64_t stripeDoubles(const S4dProblem& p) { return (p.M * kModeRows + 1) * kDoubles; }

// Scratch memory of float64.
class DoubleScratch {
 public:
  explicit DoubleScratch(int64_t doubles) : scratch_(static_cast<size_t>(2 * doubles + 16 * 16)) {}
  double* take(int64_t doubles) { return reinterpret_cast<double*>(scratch_.take(static_cast<size_t>(2 * doubles))); }

 private:
  Scratch scratch_;
};

struct Complex {
  double re, im;
};
inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
inline Complex operator*(double a, Complex b) { return {a * b.re, a * b.im}; }
inline Complex conjugate(Complex a) { return {a.re, -a.im}; }
inline Complex inverse(Complex a) {
  const double by = 1 / (a.re * a.re + a.im * a.im);
  return {a.re * by, -a.im * by};
}

// One mode, and the derivatives of what it becomes.
struct Discrete {
  Complex abar, bbar;
  Complex abarByA, bbarByA, abarByDt, bbarByDt;
};

Discrete discretise(double dt, Complex a, bool bilinear) {
  const Complex z = dt * a;
  Discrete d;
  if (bilinear) {
    const Complex by = inverse({1 - z.re / 2, -z.im / 2}), square = by * by;
    d.abar = Complex{1 + z.re / 2, z.im / 2} * by;
    d.bbar = dt * by;
    d.abarByA = dt * square;
    d.bbarByA = (dt * dt / 2) * square;
    d.abarByDt = a * square;
    d.bbarByDt = square;
    return d;
  }
  const double e = std::exp(z.re), half = std::sin(z.im / 2);
  d.abar = {e * std::cos(z.im), e * std::sin(z.im)};
  // e^z - 1 without cancellation
  const Complex minusOne{std::expm1(z.re) * std::cos(z.im) - 2 * half * half, d.abar.im};
  const double size = z.re * z.re + z.im * z.im;
  if (size < 1e-8) {
    d.bbar = dt * (Complex{1, 0} + 0.5 * z + (1.0 / 6) * (z * z));
    d.bbarByA = (dt * dt) * (Complex{0.5, 0} + (1.0 / 3) * z + 0.125 * (z * z));
  } else {
    d.bbar = minusOne * inverse(a);
    d.bbarByA = (dt * d.abar + -1.0 * d.bbar) * inverse(a);
  }
  d.abarByA = dt * d.abar;
  d.abarByDt = a * d.abar;
  d.bbarByDt = d.abar;
  return d;
}

Discrete modeOf(const S4dProblem& p, int64_t c, int64_t m) {
  const Complex a{-std::exp(static_cast<double>(p.logAReal[c * p.M + m])), p.AImag[c * p.M + m]};
  return discretise(std::exp(static_cast<double>(p.logDt[c])), a, p.bilinear);
}

// [stripes] of stripeDoubles(); channels beyond D are zero.
AlignedBuffer modeParameters(const S4dProblem& p) {
  const int64_t stripes = modeStripes(p), size = stripeDoubles(p);
  AlignedBuffer buffer(static_cast<size_t>(stripes * size) * sizeof(double));
  double* all = static_cast<double*>(buffer.data());
  const Split s = splitWork(stripes, p.M * kDoubles * 400);
  parallelFor(s.tasks, p.cancel, [&](int64_t task) {
    for (int64_t i = s.begin(task); i < s.end(task); ++i) {
      double* to = all + i * size;
      std::memset(to, 0, static_cast<size_t>(size) * sizeof(double));
      for (int64_t c = i * kDoubles; c < (i + 1) * kDoubles && c < p.D; ++c) {
        double* lane = to + c % kDoubles;
        for (int64_t m = 0; m < p.M; ++m, lane += kModeRows * kDoubles) {
          const Discrete d = modeOf(p, c, m);
          const float* C = p.C + (c * p.M + m) * 2;
          const double rows[kModeRows] = {d.abar.re, d.abar.im, d.bbar.re, d.bbar.im, 2.0 * C[0], 2.0 * C[1]};
          for (int64_t r = 0; r < kModeRows; ++r) lane[r * kDoubles] = rows[r];
        }
        *lane = p.skip ? p.skip[c] : 0;
      }
    }
  });
  return buffer;
}

// sums: of one channel, kDoubles apart: gradients of Abar, Bbar and (halved) C per mode, then of the skip.
void parameterGradients(const S4dBackward& p, int64_t c, const double* sums) {
  const double dt = std::exp(static_cast<double>(p.logDt[c]));
  double dDt = 0;
  for (int64_t m = 0; m < p.M; ++m, sums += kModeRows * kDoubles) {
    const int64_t at = c * p.M + m;
    const Discrete d = modeOf(p, c, m);
    const Complex dAbar{sums[0], sums[kDoubles]}, dBbar{sums[2 * kDoubles], sums[3 * kDoubles]};
    const Complex dA = conjugate(d.abarByA) * dAbar + conjugate(d.bbarByA) * dBbar;
    dDt += (conjugate(d.abarByDt) * dAbar + conjugate(d.bbarByDt) * dBbar).re;
    p.dLogAReal[at] = static_cast<float>(-std::exp(static_cast<double>(p.logAReal[at])) * dA.re);
    p.dAImag[at] = static_cast<float>(dA.im);
    p.dC[at * 2] = static_cast<float>(2 * sums[4 * kDoubles]);
    p.dC[at * 2 + 1] = static_cast<float>(2 * sums[5 * kDoubles]);
  }
  p.dLogDt[c] = static_cast<float>(dt * dDt);
  if (p.dSkip) p.dSkip[c] = static_cast<float>(*sums);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
