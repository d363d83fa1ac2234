// h_t = e^g_t h_(t-1) + x_t per channel, and backwards dh_t = dO_t + e^g_(t+1) dh_(t+1), dx = dh, dg = e^g h_(t-1) dh.
// Limit: memory. Forward 12 bytes an element in float32 and an exponential, backward 20, and 8 more beyond kHgrnChunk
// tokens, whose h is computed from x and g a second time. Stripes of channels go through all tokens, h in the nearest
// cache. A slow decay acts as fma(h, expm1(g), h). Qin et al., HGRN, 2023 (arXiv:2311.04823).
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kHgrnStripe = 256, kHgrnChunk = 256;
constexpr float kHgrnReset = -104.0f;  // below it e^g is no float32: h is forgotten, whatever it was

RANKONE_INLINE Vec hgrnDecayed(Vec h, Vec g) {
  const IVec slow = abs(g) <= 0.5f;
  const Vec s = fma(h, select(slow, expm1Small(g), exp(g)), (Vec)((IVec)h & slow));
  return select(g < kHgrnReset, zero(), s);
}

struct HgrnStripe {
  int64_t sequence, c0, width, first, T;  // first: element of the first token
};

HgrnStripe hgrnStripe(const HgrnProblem& p, int64_t item) {
  const int64_t stripes = (p.D + kHgrnStripe - 1) / kHgrnStripe, n = item / stripes, c0 = item % stripes * kHgrnStripe;
  return {n, c0, p.D - c0 < kHgrnStripe ? p.D - c0 : kHgrnStripe, p.start(n) * p.D + c0, p.length(n)};
}

// h before token t0 on, after `count` tokens; each token's goes to `to`, `ld` elements apart (of dtype O), unless null.
template <class X, class G, class O>
void hgrnTokens(const HgrnProblem& p, const HgrnStripe& s, int64_t t0, int64_t count, float* h, typename O::Element* to,
                int64_t ld) {
  const auto* x = elements<X>(p.x.data, s.first + t0 * p.D);
  const auto* g = elements<G>(p.g.data, s.first + t0 * p.D);
  for (int64_t t = 0; t < count; ++t, x += p.D, g += p.D, to += to ? ld : 0)
    for (int64_t i = 0; i < s.width; i += kLanes) {
      const int n = lanesLeft(i, s.width);
      const Vec next = hgrnDecayed(load(h + i), get<G>(g + i, n)) + get<X>(x + i, n);
      store(h + i, next);
      if (to) put<O>(to + i, next, n);
    }
}

void hgrnStart(const float* state, int64_t at, int64_t width, float* h) {
  std::memset(h, 0, static_cast<size_t>(kHgrnStripe) * sizeof(float));
  if (state) std::memcpy(h, state + at, static_cast<size_t>(width) * sizeof(float));
}

template <class X, class G>
void hgrnForwardStripe(const HgrnForward& p, const HgrnStripe& s) {
  Scratch scratch(kHgrnStripe);
  float* h = scratch.take(kHgrnStripe);
  const int64_t at = p.stateOffset(s.sequence) + s.c0;
  hgrnStart(p.initialState, at, s.width, h);
  for (int64_t t0 = 0; t0 < s.T; t0 += kHgrnChunk) {
    if (p.cancel && p.cancel->load(std::memory_order_relaxed)) return;
    const int64_t count = s.T - t0 < kHgrnChunk ? s.T - t0 : kHgrnChunk;
    hgrnTokens<X, G, X>(p, s, t0, count, h, elements<X>(p.o, s.first + t0 * p.D), p.D);
  }
  if (p.finalState) std::memcpy(p.finalState + at, h, static_cast<size_t>(s.width) * sizeof(float));
}

template <class X, class G>
void hgrnBackwardStripe(const HgrnBackward& p, const HgrnStripe& s) {
  const int64_t chunks = (s.T + kHgrnChunk - 1) / kHgrnChunk, rows = s.T < kHgrnChunk ? s.T : kHgrnChunk;
  Scratch scratch(static_cast<size_t>((chunks + rows + 3) * kHgrnStripe));
  float *starts = scratch.take((chunks + 1) * kHgrnStripe), *states = scratch.take((rows + 1) * kHgrnStripe);
  float* dh = scratch.take(kHgrnStripe);
  const int64_t at = s.sequence * p.D + s.c0;
  hgrnStart(p.initialState, at, s.width, starts);
  for (int64_t c = 0; c + 1 < chunks; ++c) {
    if (p.cancel && p.cancel->load(std::memory_order_relaxed)) return;
    std::memcpy(starts + (c + 1) * kHgrnStripe, starts + c * kHgrnStripe, kHgrnStripe * sizeof(float));
    hgrnTokens<X, G, F32>(p, s, c * kHgrnChunk, kHgrnChunk, starts + (c + 1) * kHgrnStripe, nullptr, 0);
  }
  hgrnStart(p.dFinalState, at, s.width, dh);
  for (int64_t c = chunks - 1; c >= 0; --c) {
    if (p.cancel && p.cancel->load(std::memory_order_relaxed)) return;
    const int64_t t0 = c * kHgrnChunk, count = s.T - t0 < kHgrnChunk ? s.T - t0 : kHgrnChunk;
    // Rows of h before each token; the running one lies behind them in the chunk's own start.
    float* h = starts + c * kHgrnStripe;
    std::memcpy(states, h, kHgrnStripe * sizeof(float));
    hgrnTokens<X, G, F32>(p, s, t0, count - 1, h, states + kHgrnStripe, kHgrnStripe);
    for (int64_t t = count - 1; t >= 0; --t) {
      const int64_t row = s.first + (t0 + t) * p.D;
      for (int64_t i = 0; i < s.width; i += kLanes) {
        const int n = lanesLeft(i, s.width);
        const Vec g = get<G>(elements<G>(p.g.data, row + i), n);
        const Vec d = load(dh + i) + get<X>(elements<X>(p.dO.data, row + i), n);
        const IVec forgets = g < kHgrnReset;
        put(p.dx + row + i, d, n);
        put(p.dg + row + i, select(forgets, zero(), exp(g) * load(states + t * kHgrnStripe + i) * d), n);
        store(dh + i, hgrnDecayed(d, g));
      }
    }
  }
  if (p.dInitialState) std::memcpy(p.dInitialState + at, dh, static_cast<size_t>(s.width) * sizeof(float));
}

// f(X, G, stripe) for every stripe of every sequence.
template <class F>
void overStripes(const HgrnProblem& p, int64_t cost, F&& f) {
  const int64_t stripes = (p.D + kHgrnStripe - 1) / kHgrnStripe, tokens = p.N > 0 ? p.B * p.T / p.N + 1 : 1;
  const Split split = splitWork(p.N * stripes, cost * tokens * (p.D < kHgrnStripe ? p.D : kHgrnStripe));
  withDType(p.x.dtype, [&](auto x) {
    const auto each = [&](auto g) {
      parallelFor(split.tasks, p.cancel, [&](int64_t task) {
        for (int64_t i = split.begin(task); i < split.end(task); ++i) f(x, g, hgrnStripe(p, i));
      });
    };
    p.g.dtype == DType::F32 ? each(F32{}) : each(x);
  });
}

}  // namespace

void hgrn(const HgrnForward& p) {
  overStripes(p, 24, [&](auto x, auto g, const HgrnStripe& s) { hgrnForwardStripe<decltype(x), decltype(g)>(p, s); });
}

void hgrnBackward(const HgrnBackward& p) {
  overStripes(p, 64, [&](auto x, auto g, const HgrnStripe& s) { hgrnBackwardStripe<decltype(x), decltype(g)>(p, s); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
