// The two inner loops of the short convolution, over rows of channels that lie `ld` apart. Part of short_conv.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kTokens = 4;  // of one pass: a row of x is loaded once for all the taps that meet it

// x and y have dtypes X and Y.
template <class X, class Y>
struct TapLoop {
  const typename X::Element* x;  // row t + j meets tap j of token t
  int64_t ldX;
  const float* taps;  // [W, ldTaps]
  int64_t ldTaps, W;
  const float* bias;  // null: none
  bool silu;
  typename Y::Element* y;
  int64_t ldY;
  int64_t channels;
};

// y[t] = act(bias + sum_j taps_j x[t + j]) for `kCount` tokens from `token` on. kW = 0: W taps, known at run time only.
template <class X, class Y, int kW, int kCount>
void convTokens(const TapLoop<X, Y>& p, int64_t token) {
  const auto* x = p.x + token * p.ldX;
  auto* y = p.y + token * p.ldY;
  for (int64_t c = 0; c < p.channels; c += kLanes) {
    const int n = lanesLeft(c, p.channels);
    Vec acc[kCount];
    const Vec start = p.bias ? get(p.bias + c, n) : zero();
#pragma GCC unroll 4
    for (int t = 0; t < kCount; ++t) acc[t] = start;
    if constexpr (kW > 0) {
      Vec rows[kW + kCount - 1];
#pragma GCC unroll 8
      for (int r = 0; r < kW + kCount - 1; ++r) rows[r] = get<X>(x + r * p.ldX + c, n);
#pragma GCC unroll 4
      for (int j = 0; j < kW; ++j) {
        const Vec tap = get(p.taps + j * p.ldTaps + c, n);
#pragma GCC unroll 4
        for (int t = 0; t < kCount; ++t) acc[t] = fma(tap, rows[t + j], acc[t]);
      }
    } else {
      for (int64_t j = 0; j < p.W; ++j) {
        const Vec tap = get(p.taps + j * p.ldTaps + c, n);
#pragma GCC unroll 4
        for (int t = 0; t < kCount; ++t) acc[t] = fma(tap, get<X>(x + (t + j) * p.ldX + c, n), acc[t]);
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < kCount; ++t) put<Y>(y + t * p.ldY + c, p.silu ? silu(acc[t]) : acc[t], n);
  }
}

template <int kW, class X, class Y>
void convWidth(const TapLoop<X, Y>& p, int64_t tokens) {
  int64_t t = 0;
  for (; t + kTokens <= tokens; t += kTokens) convTokens<X, Y, kW, kTokens>(p, t);
  for (; t < tokens; ++t) convTokens<X, Y, kW, 1>(p, t);
}

template <class X, class Y>
void conv(const TapLoop<X, Y>& p, int64_t tokens) {
  if (p.W == 4) return convWidth<4>(p, tokens);  // what models have
  if constexpr (std::is_same_v<X, F32>) {
    if (p.W == 2) return convWidth<2>(p, tokens);
    if (p.W == 3) return convWidth<3>(p, tokens);
  }
  convWidth<0>(p, tokens);
}

// sums[j] += sum_t d[t] x[t + j], a vector of channels and up to kGroup taps at a time.
constexpr int kGroup = 4;

template <class X, int kCount>
void correlateTaps(const TapLoop<X, F32>& p, const float* d, int64_t ldD, int64_t tokens, int64_t j, float* sums) {
  for (int64_t c = 0; c < p.channels; c += kLanes) {
    const int n = lanesLeft(c, p.channels);
    Vec acc[kCount];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) acc[i] = zero();
    const auto* x = p.x + j * p.ldX + c;
    for (int64_t t = 0; t < tokens; ++t) {
      const Vec g = get(d + t * ldD + c, n);
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) acc[i] = fma(g, get<X>(x + (t + i) * p.ldX, n), acc[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      float* out = sums + (j + i) * p.ldTaps + c;
      put(out, get(out, n) + acc[i], n);
    }
  }
}

// p.x, p.ldX, p.W, p.ldTaps (of sums) and p.channels count; the rest of p is not looked at.
template <class X>
void correlate(const TapLoop<X, F32>& p, const float* d, int64_t ldD, int64_t tokens, float* sums) {
  int64_t j = 0;
  for (; j + kGroup <= p.W; j += kGroup) correlateTaps<X, kGroup>(p, d, ldD, tokens, j, sums);
  for (; j < p.W; ++j) correlateTaps<X, 1>(p, d, ldD, tokens, j, sums);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
