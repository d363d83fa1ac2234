// Element by element, float32; sums over rows and the slope of the step size in float64.
#include "kernels/rows.inl"

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

// Softplus without overflow for large x.
static double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

void mamba2Prepare(const Mamba2Args& a, float* step, float* g) {
  const auto at = [](const float* p, int64_t i, int lanes) { return p ? loadUpTo(p + i, lanes) : zero(); };
  const AnyRow dt(a.dt.data, a.dt.dtype, 0);
  parallelFor((a.rows + kMamba2Rows - 1) / kMamba2Rows, a.cancel, [&](int64_t task) {
    const int64_t end = (task + 1) * kMamba2Rows < a.rows ? (task + 1) * kMamba2Rows : a.rows;
    for (int64_t row = task * kMamba2Rows; row < end; ++row)
      overLanes(a.HV, [&](int64_t h, int n) {
        const int64_t i = row * a.HV + h;
        Vec s = get(dt, i, n) + at(a.dtBias, h, n);
        if (a.softplus) s = softplus(s);
        s = select(s < a.low, splat(a.low), select(s > a.high, splat(a.high), s));
        storeUpTo(step + i, s, n);
        storeUpTo(g + i, s * at(a.A, h, n), n);
      });
  });
}

void mamba2Skip(const Mamba2Args& a, const float* o, void* y, DType yDType) {
  overRows(a, [&](int64_t row, int64_t h) {
    const int64_t at = (row * a.HV + h) * a.P;
    const AnyRow x(a.x.data, a.x.dtype, at);
    const AnyOutput to(y, yDType, at);
    const Vec by = splat(a.D[h]);
    overLanes(a.P, [&](int64_t i, int n) { put(to, i, fma(by, get(x, i, n), loadUpTo(o + at + i, n)), n); });
  });
}

void mamba2Gradients(const Mamba2Args& a, const Mamba2Gradients& d) {
  overRows(a, [&](int64_t row, int64_t h) {
    const int64_t at = row * a.HV + h;
    const float step = d.step[at], skip = a.D ? a.D[h] : 0;
    Vec dot = zero();
    const AnyRow x(a.x.data, a.x.dtype, at * a.P), dY(d.dY.data, a.x.dtype, at * a.P);
    overLanes(a.P, [&](int64_t i, int n) {
      const int64_t e = at * a.P + i;
      const Vec dv = loadUpTo(d.dV + e, n);
      dot = fma(dv, get(x, i, n), dot);
      Vec dx = dv * step;
      if (a.D) dx = fma(splat(skip), get(dY, i, n), dx);
      storeUpTo(d.dx + e, dx, n);
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
      const AnyRow x(a.x.data, a.x.dtype, at * a.P), dY(d.dY.data, a.x.dtype, at * a.P);
      overLanes(a.P, [&](int64_t i, int n) { dot = fma(get(dY, i, n), get(x, i, n), dot); });
      dD += sum(dot);
    }
    d.dA[h] = static_cast<float>(dA);
    if (d.dD) d.dD[h] = static_cast<float>(dD);
    if (d.dDtBias) d.dDtBias[h] = static_cast<float>(dBias);
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
