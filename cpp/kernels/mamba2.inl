// Element by element, float32; sums over rows and the slope of the step size in float64.
namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int64_t kMamba2Rows = 64;  // rows to a task

template <class F>
void overRows(const Mamba2Args& a, F&& f) {
  parallelFor((a.rows + kMamba2Rows - 1) / kMamba2Rows, a.cancel, [&](int64_t task) {
    const int64_t end = (task + 1) * kMamba2Rows < a.rows ? (task + 1) * kMamba2Rows : a.rows;
    for (int64_t row = task * kMamba2Rows; row < end; ++row)
      for (int64_t h = 0; h < a.HV; ++h) f(row, h);
  });
}

// f(offset, how many lanes) over P.
template <class F>
RANKONE_INLINE void overLanes(int64_t P, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= P; i += kLanes) f(i, kLanes);
  if (i < P) f(i, static_cast<int>(P - i));
}

// Vectors of P values of a row of any float type: f(offset, how many lanes, x there).
template <class D, class F>
RANKONE_INLINE void overValues(const FloatView& x, int64_t at, int64_t P, F&& f) {
  const auto* p = static_cast<const typename D::Element*>(x.data) + at;
  overLanes(P, [&](int64_t i, int n) { f(i, n, n == kLanes ? D::load(p + i) : D::loadPart(p + i, n)); });
}

// Softplus without overflow for large x.
static double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

void mamba2Prepare(const Mamba2Args& a, float* step, float* g) {
  const auto at = [](const float* p, int64_t i, int lanes) { return p ? loadUpTo(p + i, lanes) : zero(); };
  withDType(a.dt.dtype, [&](auto d) {
    using D = decltype(d);
    const auto* dt = static_cast<const typename D::Element*>(a.dt.data);
    parallelFor((a.rows + kMamba2Rows - 1) / kMamba2Rows, a.cancel, [&](int64_t task) {
      const int64_t end = (task + 1) * kMamba2Rows < a.rows ? (task + 1) * kMamba2Rows : a.rows;
      for (int64_t row = task * kMamba2Rows; row < end; ++row)
        overLanes(a.HV, [&](int64_t h, int n) {
          const int64_t i = row * a.HV + h;
          Vec s = (n == kLanes ? D::load(dt + i) : D::loadPart(dt + i, n)) + at(a.dtBias, h, n);
          if (a.softplus) s = softplus(s);
          s = select(s < a.low, splat(a.low), select(s > a.high, splat(a.high), s));
          storeUpTo(step + i, s, n);
          storeUpTo(g + i, s * at(a.A, h, n), n);
        });
    });
  });
}

void mamba2Skip(const Mamba2Args& a, const float* o, void* y, DType yDType) {
  withDType(a.x.dtype, [&](auto d) {
    const auto skip = [&](int64_t at, int64_t h, float* to) __attribute__((always_inline)) {
      const Vec by = splat(a.D[h]);
      overValues<decltype(d)>(
          a.x, at, a.P, [&](int64_t i, int n, Vec x) { storeUpTo(to + i, fma(by, x, loadUpTo(o + at + i, n)), n); });
    };
    if (yDType == DType::F32)
      return overRows(a, [&](int64_t row, int64_t h) {
        const int64_t at = (row * a.HV + h) * a.P;
        skip(at, h, static_cast<float*>(y) + at);
      });
    overRows(a, [&](int64_t row, int64_t h) {
      const int64_t at = (row * a.HV + h) * a.P;
      Scratch scratch(alignFloats(a.P));
      float* sum = scratch.take(a.P);
      skip(at, h, sum);
      narrow(sum, a.P, y, yDType, at);
    });
  });
}

void mamba2Gradients(const Mamba2Args& a, const Mamba2Gradients& d) {
  overRows(a, [&](int64_t row, int64_t h) {
    const int64_t at = row * a.HV + h;
    const float step = d.step[at], skip = a.D ? a.D[h] : 0;
    Vec dot = zero();
    withDType(a.x.dtype, [&](auto type) {
      using D = decltype(type);
      const auto* dY = static_cast<const typename D::Element*>(d.dY.data);
      overValues<D>(a.x, at * a.P, a.P, [&](int64_t i, int n, Vec x) {
        const int64_t e = at * a.P + i;
        const Vec dv = loadUpTo(d.dV + e, n);
        dot = fma(dv, x, dot);
        Vec dx = dv * step;
        if (a.D) dx = fma(splat(skip), n == kLanes ? D::load(dY + e) : D::loadPart(dY + e, n), dx);
        storeUpTo(d.dx + e, dx, n);
      });
    });
    double raw = element(a.dt, at);
    if (a.dtBias) raw += a.dtBias[h];
    const double open = a.softplus ? softplus(raw) : raw;
    const double slope = open < a.low || open > a.high ? 0 : a.softplus ? 1 / (1 + std::exp(-raw)) : 1;
    d.ddt[at] =
        slope == 0
            ? 0.0f
            : static_cast<float>((static_cast<double>(sum(dot)) + static_cast<double>(d.dG[at]) * a.A[h]) * slope);
  });
  // Sums over rows, one value head a task, rows in order.
  parallelFor(a.HV, a.cancel, [&](int64_t h) {
    double dA = 0, dD = 0, dBias = 0;
    for (int64_t row = 0; row < a.rows; ++row) {
      const int64_t at = row * a.HV + h;
      dA += static_cast<double>(d.dG[at]) * d.step[at];
      dBias += d.ddt[at];
      if (!d.dD) continue;
      Vec dot = zero();
      withDType(a.x.dtype, [&](auto type) {
        using D = decltype(type);
        const auto* dY = static_cast<const typename D::Element*>(d.dY.data) + at * a.P;
        overValues<D>(a.x, at * a.P, a.P, [&](int64_t i, int n, Vec x) {
          dot = fma(n == kLanes ? D::load(dY + i) : D::loadPart(dY + i, n), x, dot);
        });
      });
      dD += sum(dot);
    }
    d.dA[h] = static_cast<float>(dA);
    if (d.dD) d.dD[h] = static_cast<float>(dD);
    if (d.dDtBias) d.dDtBias[h] = static_cast<float>(dBias);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
