// Element by element, float32; the step size and all sums over rows in float64.
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
RANKONE_INLINE Vec loadUpTo(const float* p, int n) { return n == kLanes ? load(p) : loadPart(p, n); }
RANKONE_INLINE void storeUpTo(float* p, Vec x, int n) { n == kLanes ? store(p, x) : storePart(p, x, n); }

// Softplus without overflow for large x.
static double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

static float stepSize(const Mamba2Args& a, int64_t row, int64_t h) {
  double s = a.dt[row * a.HV + h];
  if (a.dtBias) s += a.dtBias[h];
  if (a.softplus) s = softplus(s);
  const float step = static_cast<float>(s);
  return step < a.low ? a.low : step > a.high ? a.high : step;
}

void mamba2Prepare(const Mamba2Args& a, float* step, float* v, float* g) {
  overRows(a, [&](int64_t row, int64_t h) {
    const int64_t at = row * a.HV + h;
    step[at] = stepSize(a, row, h);
    g[at] = step[at] * a.A[h];
    overLanes(a.P,
              [&](int64_t i, int n) { storeUpTo(v + at * a.P + i, loadUpTo(a.x + at * a.P + i, n) * step[at], n); });
  });
}

void mamba2Skip(const Mamba2Args& a, float* y) {
  overRows(a, [&](int64_t row, int64_t h) {
    const int64_t at = (row * a.HV + h) * a.P;
    overLanes(a.P, [&](int64_t i, int n) {
      storeUpTo(y + at + i, fma(splat(a.D[h]), loadUpTo(a.x + at + i, n), loadUpTo(y + at + i, n)), n);
    });
  });
}

void mamba2Gradients(const Mamba2Args& a, const Mamba2Gradients& d) {
  overRows(a, [&](int64_t row, int64_t h) {
    const int64_t at = row * a.HV + h;
    const float step = d.step[at], skip = a.D ? a.D[h] : 0;
    Vec dot = zero();
    overLanes(a.P, [&](int64_t i, int n) {
      const int64_t e = at * a.P + i;
      const Vec dv = loadUpTo(d.dV + e, n);
      dot = fma(dv, loadUpTo(a.x + e, n), dot);
      Vec dx = dv * step;
      if (a.D) dx = fma(splat(skip), loadUpTo(d.dY + e, n), dx);
      storeUpTo(d.dx + e, dx, n);
    });
    double raw = a.dt[at];
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
      overLanes(a.P, [&](int64_t i, int n) {
        dot = fma(loadUpTo(d.dY + at * a.P + i, n), loadUpTo(a.x + at * a.P + i, n), dot);
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
