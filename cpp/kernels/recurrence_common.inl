// What the forms of the recurrence share: the layout of the state in column blocks and the gate policies.
#include "kernels/recurrence_rows.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// A state block holds kBlock columns of V, contiguous: [K][kBlock]. Two vectors across, so that two tokens' reads and
// pending writes fit the register file.
constexpr int kVecs = 2;
constexpr int kBlock = kVecs * kLanes;

// Folded decays: a row of the state is kept divided by e^c, c its cumulative log decay since the last rescale. Beyond
// this |c| the row is rescaled, so that neither e^c nor e^-c strains the range of float32.
constexpr float kFoldLimit = 20.0f;
constexpr float kSmallFoldLimit = 1.0f;  // for magnitudes near the end of float32's range

// A log gate below this is a reset: e^g is no float32 any more, and the rows become +0 whatever they held.
constexpr float kResetBelow = -104.0f;

struct NoGate {
  static constexpr bool kPerChannel = false;
  static float logDecay(const HeadRows&, int64_t) { return 0.0f; }
};
// Of a head, or of every token: to read one costs nothing beside a token's update, and one code for both is less of it.
struct ScalarGate {
  static constexpr bool kPerChannel = false;
  static float logDecay(const HeadRows& rows, int64_t t) { return *rows.g(t); }
};
struct ChannelGate {
  static constexpr bool kPerChannel = true;
  static const float* logDecays(const HeadRows& rows, int64_t t) { return rows.g(t); }
};

struct Additive {
  static constexpr bool kDelta = false;
};
struct Delta {
  static constexpr bool kDelta = true;
};

// Calls f(gate policy, update policy) for a problem's cell of the grid.
template <class F>
void withCell(const RecurrenceProblem& p, F&& f) {
  const auto withUpdate = [&](auto gate) {
    if (p.update == UpdateRule::Delta)
      f(gate, Delta{});
    else
      f(gate, Additive{});
  };
  switch (p.gate) {
    case GateKind::None: return withUpdate(NoGate{});
    case GateKind::Head:
    case GateKind::Token: return withUpdate(ScalarGate{});
    case GateKind::Channel: return withUpdate(ChannelGate{});
  }
}

// The state between its row-major form [K,V] and column blocks [blocks][K][kBlock]; columns beyond V are zero.
inline void loadBlock(const float* rows, int64_t K, int64_t V, int64_t block, float* out) {
  const int64_t c0 = block * kBlock, n = V - c0 < kBlock ? V - c0 : kBlock;
  for (int64_t i = 0; i < K; ++i) {
    float* to = out + i * kBlock;
    if (n < kBlock) std::memset(to, 0, kBlock * sizeof(float));
    std::memcpy(to, rows + i * V + c0, static_cast<size_t>(n) * sizeof(float));
  }
}
inline void storeBlock(const float* block, int64_t K, int64_t V, int64_t index, float* rows) {
  const int64_t c0 = index * kBlock, n = V - c0 < kBlock ? V - c0 : kBlock;
  for (int64_t i = 0; i < K; ++i)
    std::memcpy(rows + i * V + c0, block + i * kBlock, static_cast<size_t>(n) * sizeof(float));
}

// sum + x with the rounding error of the addition moved into rest: a running sum in twice float32's precision, which
// is what the contract calls cumulation in float64.
RANKONE_INLINE void addExactly(Vec& sum, Vec& rest, Vec x) {
  const Vec s = sum + x, part = s - sum;
  rest = rest + ((sum - (s - part)) + (x - part));
  sum = s;
}

// e^(hi+lo) and e^-(hi+lo) at the cost of one, for |hi| <= 80: the even and the odd part of the series serve both.
RANKONE_INLINE void expBoth(Vec hi, Vec lo, Vec& plus, Vec& minus) {
  const Vec n = roundToInteger(hi * 1.44269504f);
  Vec r = fnma(n, splat(0.693145752f), hi);
  r = fnma(n, splat(1.42860677e-6f), r) + lo;
  const Vec r2 = r * r;
  Vec even = fma(r2, splat(1.0f / 40320), splat(1.0f / 720));
  even = fma(even, r2, splat(1.0f / 24));
  even = fma(even, r2, splat(0.5f));
  even = fma(even, r2, splat(1.0f));
  Vec odd = fma(r2, splat(1.0f / 5040), splat(1.0f / 120));
  odd = fma(odd, r2, splat(1.0f / 6));
  odd = fma(odd * r2, r, r);
  const UVec i = (UVec) __builtin_convertvector(n, IVec);  // unsigned: a NaN lane may wrap, it stays NaN
  plus = (even + odd) * (Vec)((i + 127u) << 23);
  minus = (even - odd) * (Vec)((127u - i) << 23);
}

// e^g of a token per row, exact zeros for resets; writes K values rounded up to whole vectors.
inline void decayRows(const HeadRows& rows, bool perChannel, int64_t t, int64_t K, float* out) {
  if (perChannel) {
    const float* g = ChannelGate::logDecays(rows, t);
    for (int64_t i = 0; i < K; i += kLanes) {
      const Vec x = loadPart(g + i, static_cast<int>(K - i < kLanes ? K - i : kLanes));
      store(out + i, select(x < kResetBelow, zero(), exp(x)));
    }
  } else {
    const float g = ScalarGate::logDecay(rows, t);
    const float e = g < kResetBelow ? 0.0f : static_cast<float>(std::exp(static_cast<double>(g)));
    for (int64_t i = 0; i < K; ++i) out[i] = e;
  }
}

// A bound on how much positive log gates can make a state grow over T tokens, `stride` of which are prepared at a time.
template <class Gate>
double totalGrowth(HeadRows& rows, int64_t T, int64_t K, int64_t stride) {
  double growth = 0;
  for (int64_t t = 0; t < T && !std::is_same_v<Gate, NoGate>; ++t) {
    if (t % stride == 0) rows.prepare(t, T - t < stride ? T - t : stride, HeadRows::kGates);
    float most = 0;
    if constexpr (Gate::kPerChannel) {
      const float* g = Gate::logDecays(rows, t);
      for (int64_t i = 0; i < K; ++i) most = g[i] > most ? g[i] : most;
    } else {
      const float g = Gate::logDecay(rows, t);
      most = g > 0 ? g : 0;
    }
    growth += most;
  }
  return growth;
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
