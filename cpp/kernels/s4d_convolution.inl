// S4D as a long convolution from zero states: y = K * x + skip x with K_l = Re(2 C Bbar Abar^l), by a Fourier transform
// of twice as many points, of kDoubles channels at a time. Part of s4d.inl.
//
// Forward transforms go from whole to halves and leave their frequencies in bit-reversed order, inverse ones take them
// so: no reordering, and the recursion stays within a cache once it has become that small. No two sequences share one.
// Cost per point and transform 5 log2 L flops; K 8 M a token once for all sequences, its gradients the same.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// L points of kDoubles channels.
struct Spectrum {
  double *re, *im;
};

class Fourier {
 public:
  Fourier(int64_t length, DoubleScratch& scratch)
      : length_(length), cos_(scratch.take(length / 2 + 1)), sin_(scratch.take(length / 2 + 1)) {
    for (int64_t j = 0; j < length / 2; ++j) {
      const double angle = -2 * 3.14159265358979323846 * static_cast<double>(j) / static_cast<double>(length);
      cos_[j] = std::cos(angle);
      sin_[j] = std::sin(angle);
    }
  }

  static int64_t lengthFor(int64_t T) {
    int64_t length = 1;
    while (length < 2 * T) length *= 2;
    return length;
  }

  void forward(Spectrum x) const { split(x, length_); }
  // Without the factor 1/L.
  void inverse(Spectrum x) const { join(x, length_); }

 private:
  __attribute__((noinline)) void split(Spectrum x, int64_t n) const {
    const int64_t half = n / 2, step = half ? length_ / n : 0;
    if (half == 0) return;
    for (int64_t j = 0; j < half; ++j) {
      const DVec c = splatDouble(cos_[j * step]), s = splatDouble(sin_[j * step]);
      const int64_t at = j * kDoubles, other = (j + half) * kDoubles;
      const DVec ar = loadDoubles(x.re + at), ai = loadDoubles(x.im + at);
      const DVec br = loadDoubles(x.re + other), bi = loadDoubles(x.im + other), dr = ar - br, di = ai - bi;
      storeDoubles(x.re + at, ar + br);
      storeDoubles(x.im + at, ai + bi);
      storeDoubles(x.re + other, dr * c - di * s);
      storeDoubles(x.im + other, fmaDoubles(dr, s, di * c));
    }
    split(x, half);
    split({x.re + half * kDoubles, x.im + half * kDoubles}, half);
  }
  __attribute__((noinline)) void join(Spectrum x, int64_t n) const {
    const int64_t half = n / 2, step = half ? length_ / n : 0;
    if (half == 0) return;
    join(x, half);
    join({x.re + half * kDoubles, x.im + half * kDoubles}, half);
    for (int64_t j = 0; j < half; ++j) {
      const DVec c = splatDouble(cos_[j * step]), s = splatDouble(sin_[j * step]);
      const int64_t at = j * kDoubles, other = (j + half) * kDoubles;
      const DVec br = loadDoubles(x.re + other), bi = loadDoubles(x.im + other);
      const DVec dr = fmaDoubles(br, c, bi * s), di = bi * c - br * s;
      const DVec ar = loadDoubles(x.re + at), ai = loadDoubles(x.im + at);
      storeDoubles(x.re + at, ar + dr);
      storeDoubles(x.im + at, ai + di);
      storeDoubles(x.re + other, ar - dr);
      storeDoubles(x.im + other, ai - di);
    }
  }

  const int64_t length_;
  double *cos_, *sin_;
};

// x <- x y, or y's conjugate.
void multiply(Spectrum x, Spectrum y, int64_t length, bool conjugated) {
  const DVec sign = splatDouble(conjugated ? -1 : 1);
  for (int64_t i = 0; i < length * kDoubles; i += kDoubles) {
    const DVec ar = loadDoubles(x.re + i), ai = loadDoubles(x.im + i), br = loadDoubles(y.re + i);
    const DVec bi = loadDoubles(y.im + i) * sign;
    storeDoubles(x.re + i, ar * br - ai * bi);
    storeDoubles(x.im + i, fmaDoubles(ar, bi, ai * br));
  }
}

// K of T tokens.
void impulses(const S4dProblem& p, const double* parameters, double* K) {
  std::memset(K, 0, static_cast<size_t>(p.T * kDoubles) * sizeof(double));
  for (int64_t m = 0; m < p.M; ++m) {
    const Mode k(parameters + m * kModeRows * kDoubles);
    DVec wr = k.cr * k.br - k.ci * k.bi, wi = fmaDoubles(k.cr, k.bi, k.ci * k.br);
    for (int64_t t = 0; t < p.T; ++t) {
      storeDoubles(K + t * kDoubles, loadDoubles(K + t * kDoubles) + wr);
      const DVec r = fmaDoubles(wr, k.ar, -(wi * k.ai));
      wi = fmaDoubles(wr, k.ai, wi * k.ar);
      wr = r;
    }
  }
}

// From dK to the sums of parameterGradients(): with w = 2 C Bbar, K_l = Re(w Abar^l).
void impulseGradients(const S4dProblem& p, const double* parameters, const double* dK, double* sums) {
  for (int64_t m = 0; m < p.M; ++m, sums += kModeRows * kDoubles) {
    const Mode k(parameters + m * kModeRows * kDoubles);
    DVec r{}, i{}, byR{}, byI{};  // sum dK_l Abar^l, and its derivative by Abar
    for (int64_t t = p.T - 1; t >= 0; --t) {
      const DVec nr = fmaDoubles(byR, k.ar, r - byI * k.ai);
      byI = fmaDoubles(byR, k.ai, fmaDoubles(byI, k.ar, i));
      byR = nr;
      const DVec s = fmaDoubles(r, k.ar, loadDoubles(dK + t * kDoubles) - i * k.ai);
      i = fmaDoubles(r, k.ai, i * k.ar);
      r = s;
    }
    const DVec wr = k.cr * k.br - k.ci * k.bi, wi = fmaDoubles(k.cr, k.bi, k.ci * k.br);
    storeDoubles(sums, wr * byR - wi * byI);
    storeDoubles(sums + kDoubles, -fmaDoubles(wr, byI, wi * byR));
    storeDoubles(sums + 2 * kDoubles, k.cr * r - k.ci * i);
    storeDoubles(sums + 3 * kDoubles, -fmaDoubles(k.cr, i, k.ci * r));
    storeDoubles(sums + 4 * kDoubles, k.br * r - k.bi * i);
    storeDoubles(sums + 5 * kDoubles, -fmaDoubles(k.br, i, k.bi * r));
  }
}

// One stripe of all sequences.
class StripeConvolution {
 public:
  StripeConvolution(const S4dProblem& p, const double* all, int64_t stripe)
      : p_(p),
        length_(Fourier::lengthFor(p.T)),
        stripe_(modeStripe(p, stripe)),
        parameters_(all + stripe * stripeDoubles(p)),
        scratch_(length_ + 2 + 8 * length_ * kDoubles + p.T * kDoubles),
        fourier_(length_, scratch_),
        K_(spectrum()),
        x_(spectrum()),
        row_(scratch_.take(p.T * kDoubles)) {
    clear(K_);
    impulses(p, parameters_, K_.re);
    fourier_.forward(K_);
  }

  void forward(const S4dForward& p) {
    for (int64_t b = 0; b < p_.B && !stopped(); ++b) {
      const ModeStripe s = at(b);
      transform(p.x, s, x_);
      multiply(x_, K_, length_, false);
      fourier_.inverse(x_);
      takeTokens(p.x, p.dtype, p_, s, 0, p_.T, row_);
      addSkip(row_);
      withDType(p.dtype, [&](auto e) { giveTokens<decltype(e)>(row_, p_, s, 0, p_.T, p.y); });
    }
  }

  void backward(const S4dBackward& p, double* sums) {
    const Spectrum dY = spectrum(), dK = spectrum();
    clear(dK);
    DVec skip{};
    for (int64_t b = 0; b < p_.B; ++b) {
      if (stopped()) return;
      const ModeStripe s = at(b);
      transform(p.dY, s, dY);
      transform(p.x, s, x_);
      for (int64_t i = 0; i < length_ * kDoubles; i += kDoubles) {  // dK += dY conj(x)
        const DVec ar = loadDoubles(dY.re + i), ai = loadDoubles(dY.im + i);
        const DVec br = loadDoubles(x_.re + i), bi = loadDoubles(x_.im + i);
        storeDoubles(dK.re + i, fmaDoubles(ar, br, fmaDoubles(ai, bi, loadDoubles(dK.re + i))));
        storeDoubles(dK.im + i, fmaDoubles(ai, br, loadDoubles(dK.im + i)) - ar * bi);
      }
      multiply(dY, K_, length_, true);
      fourier_.inverse(dY);
      takeTokens(p.x, p.dtype, p_, s, 0, p_.T, x_.re);
      takeTokens(p.dY, p.dtype, p_, s, 0, p_.T, row_);
      for (int64_t t = 0; t < p_.T * kDoubles; t += kDoubles)
        skip = fmaDoubles(loadDoubles(x_.re + t), loadDoubles(row_ + t), skip);
      std::memcpy(x_.re, dY.re, static_cast<size_t>(p_.T * kDoubles) * sizeof(double));
      addSkip(row_);
      giveTokens<F32>(row_, p_, s, 0, p_.T, p.dx);
    }
    fourier_.inverse(dK);
    const DVec by = splatDouble(1 / static_cast<double>(length_));
    for (int64_t t = 0; t < p_.T * kDoubles; t += kDoubles) storeDoubles(dK.re + t, loadDoubles(dK.re + t) * by);
    impulseGradients(p_, parameters_, dK.re, sums);
    storeDoubles(sums + p_.M * kModeRows * kDoubles, skip);
  }

 private:
  bool stopped() const { return p_.cancel && p_.cancel->load(std::memory_order_relaxed); }
  ModeStripe at(int64_t b) const {
    ModeStripe s = stripe_;
    s.sequence = b;
    s.first = b * p_.T;
    return s;
  }
  Spectrum spectrum() { return {scratch_.take(length_ * kDoubles), scratch_.take(length_ * kDoubles)}; }
  void clear(Spectrum x) const {
    const size_t bytes = static_cast<size_t>(length_ * kDoubles) * sizeof(double);
    std::memset(x.re, 0, bytes);
    std::memset(x.im, 0, bytes);
  }
  void transform(const void* from, const ModeStripe& s, Spectrum to) const {
    clear(to);
    takeTokens(from, p_.dtype, p_, s, 0, p_.T, to.re);
    fourier_.forward(to);
  }
  // row <- x_ / L + skip row
  void addSkip(double* row) const {
    const DVec skip = loadDoubles(parameters_ + p_.M * kModeRows * kDoubles);
    const DVec by = splatDouble(1 / static_cast<double>(length_));
    for (int64_t t = 0; t < p_.T * kDoubles; t += kDoubles)
      storeDoubles(row + t, fmaDoubles(loadDoubles(x_.re + t), by, loadDoubles(row + t) * skip));
  }

  const S4dProblem& p_;
  const int64_t length_;
  const ModeStripe stripe_;
  const double* parameters_;
  DoubleScratch scratch_;
  const Fourier fourier_;
  const Spectrum K_, x_;
  double* row_;
};

void convolveForward(const S4dForward& p, const double* all) {
  parallelFor(modeStripes(p), p.cancel, [&](int64_t i) { StripeConvolution(p, all, i).forward(p); });
}

void convolveBackward(const S4dBackward& p, const double* all, double* sums) {
  const int64_t size = (p.M * 6 + 1) * kDoubles;
  parallelFor(modeStripes(p), p.cancel, [&](int64_t i) { StripeConvolution(p, all, i).backward(p, sums + i * size); });
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
