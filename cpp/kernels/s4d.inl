// S4D: per channel M complex modes, A = -e^logAReal + i AImag, step dt = e^logDt, and B = 1:
//
//     s_t = Abar s_(t-1) + Bbar x_t;   y_t = 2 Re(sum over modes of C s_t) + skip x_t
//     zero-order hold: Abar = e^(dt A), Bbar = (Abar - 1) / A;  bilinear: Abar = (1 + dt A/2) / (1 - dt A/2), Bbar = dt
//     / (1 - dt A/2)
//
// All of it is float64: the phase of a slow mode that turns at every token is off by 1e-5 after 2000 of them where Abar
// is a float32. Channels lie along the vectors, and a mode goes through a block of tokens in registers. Limit of the
// recurrence: 8 multiply-adds a mode and token, 20 backward with the states computed again.
// Gu et al., S4D, 2022 (arXiv:2206.11893).
#include "kernels/doubles.inl"
#include "kernels/elementwise.inl"
#include "kernels/s4d_parameters.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kModeTokens = 64;  // of a block

// kDoubles channels of one sequence. Rows of them hold kDoubles float64; channels beyond D are zero.
struct ModeStripe {
  int64_t sequence, c0, lanes, first, T;
};

ModeStripe modeStripe(const S4dProblem& p, int64_t item) {
  const int64_t stripes = modeStripes(p), n = item / stripes, c0 = item % stripes * kDoubles;
  return {n, c0, p.D - c0 < kDoubles ? p.D - c0 : kDoubles, p.start(n), p.length(n)};
}

void takeTokens(const void* x, DType dtype, const S4dProblem& p, const ModeStripe& s, int64_t t0, int64_t count,
                double* to) {
  float row[kLanes] = {};
  for (int64_t t = 0; t < count; ++t, to += kDoubles) {
    widen(x, dtype, (s.first + t0 + t) * p.D + s.c0, s.lanes, row);
    storeDoubles(to, widenFloats(row));
  }
}

// Row of an interleaved state [D,M,2] as [M][re, im][kDoubles], and back.
void takeModes(const float* state, const S4dProblem& p, const ModeStripe& s, int64_t at, double* to) {
  std::memset(to, 0, static_cast<size_t>(p.M * 2 * kDoubles) * sizeof(double));
  for (int64_t c = 0; state && c < s.lanes; ++c)
    for (int64_t m = 0; m < 2 * p.M; ++m) to[m * kDoubles + c] = state[at + (s.c0 + c) * p.M * 2 + m];
}
void giveModes(const double* from, const S4dProblem& p, const ModeStripe& s, int64_t at, float* state) {
  for (int64_t c = 0; state && c < s.lanes; ++c)
    for (int64_t m = 0; m < 2 * p.M; ++m)
      state[at + (s.c0 + c) * p.M * 2 + m] = static_cast<float>(from[m * kDoubles + c]);
}

struct Mode {
  DVec ar, ai, br, bi, cr, ci;  // C doubled
  explicit Mode(const double* k)
      : ar(loadDoubles(k)),
        ai(loadDoubles(k + kDoubles)),
        br(loadDoubles(k + 2 * kDoubles)),
        bi(loadDoubles(k + 3 * kDoubles)),
        cr(loadDoubles(k + 4 * kDoubles)),
        ci(loadDoubles(k + 5 * kDoubles)) {}
  RANKONE_INLINE void advance(DVec& sr, DVec& si, DVec x) const {
    const DVec r = fmaDoubles(ar, sr, fmaDoubles(br, x, -(ai * si)));
    si = fmaDoubles(ai, sr, fmaDoubles(ar, si, bi * x));
    sr = r;
  }
};

// Two modes (or one) over a block of tokens, onto y: chains of their own hide each other's latency.
template <int kModes>
__attribute__((noinline)) void advanceModes(const double* parameters, double* state, const double* x, int64_t count,
                                            double* y) {
  const Mode a(parameters), b(parameters + (kModes - 1) * kModeRows * kDoubles);
  double* other = state + (kModes - 1) * 2 * kDoubles;
  DVec ar = loadDoubles(state), ai = loadDoubles(state + kDoubles);
  DVec br = loadDoubles(other), bi = loadDoubles(other + kDoubles);
  for (int64_t t = 0; t < count; ++t) {
    const DVec u = loadDoubles(x + t * kDoubles);
    a.advance(ar, ai, u);
    DVec o = fmaDoubles(a.cr, ar, loadDoubles(y + t * kDoubles)) - a.ci * ai;
    if (kModes == 2) {
      b.advance(br, bi, u);
      o = fmaDoubles(b.cr, br, o) - b.ci * bi;
    }
    storeDoubles(y + t * kDoubles, o);
  }
  storeDoubles(state, ar);
  storeDoubles(state + kDoubles, ai);
  if (kModes == 2) {
    storeDoubles(other, br);
    storeDoubles(other + kDoubles, bi);
  }
}

void advanceBlock(const S4dProblem& p, const double* parameters, double* state, const double* x, int64_t count,
                  double* y) {
  int64_t m = 0;
  for (; m + 2 <= p.M; m += 2)
    advanceModes<2>(parameters + m * kModeRows * kDoubles, state + m * 2 * kDoubles, x, count, y);
  if (m < p.M) advanceModes<1>(parameters + m * kModeRows * kDoubles, state + m * 2 * kDoubles, x, count, y);
}

// y = skip x.
void startOutputs(const double* parameters, const double* x, int64_t count, double* y) {
  const DVec skip = loadDoubles(parameters);
  for (int64_t t = 0; t < count; ++t) storeDoubles(y + t * kDoubles, loadDoubles(x + t * kDoubles) * skip);
}

template <class E>
void giveTokens(const double* y, const S4dProblem& p, const ModeStripe& s, int64_t t0, int64_t count, void* to) {
  float row[kLanes];
  for (int64_t t = 0; t < count; ++t) {
    storeAsFloats(row, loadDoubles(y + t * kDoubles));
    put<E>(elements<E>(to, (s.first + t0 + t) * p.D + s.c0), loadPart(row, static_cast<int>(s.lanes)),
           static_cast<int>(s.lanes));
  }
}

void recurForward(const S4dForward& p, const double* all, const ModeStripe& s) {
  const double* parameters = all + s.c0 / kDoubles * stripeDoubles(p);
  DoubleScratch scratch((p.M * 2 + 2 * kModeTokens) * kDoubles);
  double *state = scratch.take(p.M * 2 * kDoubles), *x = scratch.take(kModeTokens * kDoubles);
  double* y = scratch.take(kModeTokens * kDoubles);
  const int64_t at = p.stateOffset(s.sequence);
  takeModes(p.initialState, p, s, at, state);
  for (int64_t t0 = 0; t0 < s.T; t0 += kModeTokens) {
    if (p.cancel && p.cancel->load(std::memory_order_relaxed)) return;
    const int64_t count = s.T - t0 < kModeTokens ? s.T - t0 : kModeTokens;
    takeTokens(p.x, p.dtype, p, s, t0, count, x);
    startOutputs(parameters + p.M * kModeRows * kDoubles, x, count, y);
    advanceBlock(p, parameters, state, x, count, y);
    withDType(p.dtype, [&](auto e) { giveTokens<decltype(e)>(y, p, s, t0, count, p.y); });
  }
  giveModes(state, p, s, at, p.finalState);
}

// One mode backwards over a block. states: before each token, [count][re, im]; grad: of the state after the block, and
// then before it; sums: of Abar, Bbar, C (each re, im).
__attribute__((noinline)) void reverseMode(const double* parameters, const double* state0, const double* x,
                                           const double* dY, int64_t count, double* states, double* grad, double* dx,
                                           double* sums) {
  const Mode k(parameters);
  DVec sr = loadDoubles(state0), si = loadDoubles(state0 + kDoubles);
  for (int64_t t = 0; t < count; ++t) {
    storeDoubles(states + 2 * t * kDoubles, sr);
    storeDoubles(states + (2 * t + 1) * kDoubles, si);
    k.advance(sr, si, loadDoubles(x + t * kDoubles));
  }
  storeDoubles(states + 2 * count * kDoubles, sr);
  storeDoubles(states + (2 * count + 1) * kDoubles, si);
  DVec gr = loadDoubles(grad), gi = loadDoubles(grad + kDoubles), sum[6];
  for (int i = 0; i < 6; ++i) sum[i] = loadDoubles(sums + i * kDoubles);
  for (int64_t t = count - 1; t >= 0; --t) {
    const DVec d = loadDoubles(dY + t * kDoubles), u = loadDoubles(x + t * kDoubles);
    const double *before = states + 2 * t * kDoubles, *after = before + 2 * kDoubles;
    sum[4] = fmaDoubles(d, loadDoubles(after), sum[4]);
    sum[5] = sum[5] - d * loadDoubles(after + kDoubles);
    gr = fmaDoubles(k.cr, d, gr);
    gi = gi - k.ci * d;
    const DVec pr = loadDoubles(before), pi = loadDoubles(before + kDoubles);
    sum[0] = fmaDoubles(gr, pr, fmaDoubles(gi, pi, sum[0]));
    sum[1] = fmaDoubles(gi, pr, sum[1]) - gr * pi;
    sum[2] = fmaDoubles(gr, u, sum[2]);
    sum[3] = fmaDoubles(gi, u, sum[3]);
    storeDoubles(dx + t * kDoubles, fmaDoubles(k.br, gr, fmaDoubles(k.bi, gi, loadDoubles(dx + t * kDoubles))));
    const DVec r = fmaDoubles(k.ar, gr, k.ai * gi);
    gi = fmaDoubles(k.ar, gi, -(k.ai * gr));
    gr = r;
  }
  for (int i = 0; i < 6; ++i) storeDoubles(sums + i * kDoubles, sum[i]);
  storeDoubles(grad, gr);
  storeDoubles(grad + kDoubles, gi);
}

// sums: [M][6][kDoubles], then that of the skip.
void recurBackward(const S4dBackward& p, const double* all, const ModeStripe& s, double* sums) {
  const double* parameters = all + s.c0 / kDoubles * stripeDoubles(p);
  const int64_t blocks = (s.T + kModeTokens - 1) / kModeTokens, size = p.M * 2 * kDoubles,
                rows = kModeTokens * kDoubles;
  DoubleScratch scratch((blocks + 2) * size + 6 * rows + 2 * kDoubles);
  double *starts = scratch.take((blocks + 1) * size), *grad = scratch.take(size);
  double *x = scratch.take(rows), *dY = scratch.take(rows), *dx = scratch.take(rows);
  double* states = scratch.take(2 * rows + 2 * kDoubles);
  const int64_t at = s.sequence * p.D * p.M * 2;
  std::memset(sums, 0, static_cast<size_t>((p.M * 6 + 1) * kDoubles) * sizeof(double));
  takeModes(p.initialState, p, s, at, starts);
  for (int64_t b = 0; b + 1 < blocks; ++b) {
    if (p.cancel && p.cancel->load(std::memory_order_relaxed)) return;
    std::memcpy(starts + (b + 1) * size, starts + b * size, static_cast<size_t>(size) * sizeof(double));
    takeTokens(p.x, p.dtype, p, s, b * kModeTokens, kModeTokens, x);
    std::memset(dx, 0, static_cast<size_t>(rows) * sizeof(double));
    advanceBlock(p, parameters, starts + (b + 1) * size, x, kModeTokens, dx);
  }
  takeModes(p.dFinalState, p, s, at, grad);
  for (int64_t b = blocks - 1; b >= 0; --b) {
    if (p.cancel && p.cancel->load(std::memory_order_relaxed)) return;
    const int64_t t0 = b * kModeTokens, count = s.T - t0 < kModeTokens ? s.T - t0 : kModeTokens;
    takeTokens(p.x, p.dtype, p, s, t0, count, x);
    takeTokens(p.dY, p.dtype, p, s, t0, count, dY);
    startOutputs(parameters + p.M * kModeRows * kDoubles, dY, count, dx);
    DVec skip = loadDoubles(sums + p.M * 6 * kDoubles);
    for (int64_t t = 0; t < count; ++t)
      skip = fmaDoubles(loadDoubles(dY + t * kDoubles), loadDoubles(x + t * kDoubles), skip);
    storeDoubles(sums + p.M * 6 * kDoubles, skip);
    for (int64_t m = 0; m < p.M; ++m)
      reverseMode(parameters + m * kModeRows * kDoubles, starts + b * size + m * 2 * kDoubles, x, dY, count, states,
                  grad + m * 2 * kDoubles, dx, sums + m * 6 * kDoubles);
    giveTokens<F32>(dx, p, s, t0, count, p.dx);
  }
  giveModes(grad, p, s, at, p.dInitialState);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone

#include "kernels/s4d_convolution.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

void s4d(const S4dForward& p) {
  const AlignedBuffer parameters = modeParameters(p);
  const double* all = static_cast<const double*>(parameters.data());
  if (p.convolve) return convolveForward(p, all);
  const Split s = splitWork(p.N * modeStripes(p), (p.B * p.T / p.N + 1) * p.M * kDoubles * 32);
  parallelFor(s.tasks, p.cancel, [&](int64_t task) {
    for (int64_t i = s.begin(task); i < s.end(task); ++i) recurForward(p, all, modeStripe(p, i));
  });
}

void s4dBackward(const S4dBackward& p) {
  const AlignedBuffer parameters = modeParameters(p);
  const double* all = static_cast<const double*>(parameters.data());
  const int64_t stripes = modeStripes(p), size = (p.M * 6 + 1) * kDoubles, shares = p.convolve || p.N == 0 ? 1 : p.N;
  AlignedBuffer buffer(static_cast<size_t>(shares * stripes * size) * sizeof(double));
  double* sums = static_cast<double*>(buffer.data());
  if (p.convolve) {
    convolveBackward(p, all, sums);
  } else if (p.N == 0) {
    std::memset(sums, 0, buffer.bytes());
  } else {
    const Split s = splitWork(p.N * stripes, (p.B * p.T / p.N + 1) * p.M * kDoubles * 80);
    parallelFor(s.tasks, p.cancel, [&](int64_t task) {
      for (int64_t i = s.begin(task); i < s.end(task); ++i) recurBackward(p, all, modeStripe(p, i), sums + i * size);
    });
  }
  for (int64_t n = 1; n < shares; ++n)
    for (int64_t i = 0; i < stripes * size; ++i) sums[i] += sums[n * stripes * size + i];
  for (int64_t c = 0; c < p.D; ++c) parameterGradients(p, c, sums + c / kDoubles * size + c % kDoubles);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
