// The two inner loops of the short convolution, over rows of channels that lie `ld` apart. Part of short_conv.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int kTokens = 4;  // of one pass: a row of x is loaded once for all the taps that meet it

struct TapLoop {
  AnyRow x;  // row t + j meets tap j of token t
  int64_t ldX;
  const float* taps;  // [W, ldTaps]
  int64_t ldTaps, W;
  const float* bias;  // null: none
  bool silu;
  AnyOutput y;
  int64_t ldY;
  int64_t channels;
};

// kCount vectors of rows that lie ld apart.
template <int kCount>
RANKONE_INLINE void getRows(const AnyRow& x, int64_t at, int64_t ld, int n, Vec* rows) {
  if (__builtin_expect(n < kLanes, 0)) {
    for (int r = 0; r < kCount; ++r) rows[r] = get(x, at + r * ld, n);
    return;
  }
  if (x.dtype == DType::F32) {
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) rows[r] = load(elements<F32>(x.data, at + r * ld));
  } else if (x.dtype == DType::BF16) {
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) rows[r] = BF16::load(elements<BF16>(x.data, at + r * ld));
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) rows[r] = widenF16(loadBits(elements<F16>(x.data, at + r * ld)));
  }
}
template <int kCount>
RANKONE_INLINE void putRows(const AnyOutput& y, int64_t at, int64_t ld, int n, const Vec* rows) {
  if (__builtin_expect(n < kLanes, 0)) {
    for (int r = 0; r < kCount; ++r) put(y, at + r * ld, rows[r], n);
  } else if (y.dtype == DType::F32) {
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) store(elements<F32>(y.data, at + r * ld), rows[r]);
  } else if (y.dtype == DType::BF16) {
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) BF16::store(elements<BF16>(y.data, at + r * ld), rows[r]);
  } else {
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) storeBits(elements<F16>(y.data, at + r * ld), narrowF16(rows[r]));
  }
}

// Beside the loops, whose bodies would each have one for every row.
RANKONE_OUTLINE void siluRows(Vec* rows, int count) {
  for (int r = 0; r < count; ++r) rows[r] = silu(rows[r]);
}

// y[t] = act(bias + sum_j taps_j x[t + j]) for `kCount` tokens from `token` on. kW = 0: W taps, known at run time only.
template <int kW, int kCount>
void convTokens(const TapLoop& p, int64_t token) {
  const AnyRow x(p.x.data, p.x.dtype, token * p.ldX);
  const AnyOutput y(p.y.data, p.y.dtype, token * p.ldY);
  for (int64_t c = 0; c < p.channels; c += kLanes) {
    const int n = lanesLeft(c, p.channels);
    Vec acc[kCount];
    const Vec start = p.bias ? get(p.bias + c, n) : zero();
#pragma GCC unroll 4
    for (int t = 0; t < kCount; ++t) acc[t] = start;
    if constexpr (kW > 0) {
      Vec rows[kW + kCount - 1];
      getRows<kW + kCount - 1>(x, c, p.ldX, n, rows);
#pragma GCC unroll 4
      for (int j = 0; j < kW; ++j) {
        const Vec tap = get(p.taps + j * p.ldTaps + c, n);
#pragma GCC unroll 4
        for (int t = 0; t < kCount; ++t) acc[t] = fma(tap, rows[t + j], acc[t]);
      }
    } else {
      for (int64_t j = 0; j < p.W; ++j) {
        const Vec tap = get(p.taps + j * p.ldTaps + c, n);
        Vec rows[kCount];
        getRows<kCount>(x, j * p.ldX + c, p.ldX, n, rows);
#pragma GCC unroll 4
        for (int t = 0; t < kCount; ++t) acc[t] = fma(tap, rows[t], acc[t]);
      }
    }
    if (p.silu) {
      Vec active[kCount];
#pragma GCC unroll 4
      for (int t = 0; t < kCount; ++t) active[t] = acc[t];
      siluRows(active, kCount);
#pragma GCC unroll 4
      for (int t = 0; t < kCount; ++t) acc[t] = active[t];
    }
    putRows<kCount>(y, c, p.ldY, n, acc);
  }
}

template <int kW>
void convWidth(const TapLoop& p, int64_t tokens) {
  int64_t t = 0;
  for (; t + kTokens <= tokens; t += kTokens) convTokens<kW, kTokens>(p, t);
  for (; t < tokens; ++t) convTokens<kW == 4 ? 4 : 0, 1>(p, t);
}

void conv(const TapLoop& p, int64_t tokens) {
  if (p.W == 4) return convWidth<4>(p, tokens);  // what models have
  if (p.W == 2) return convWidth<2>(p, tokens);
  if (p.W == 3) return convWidth<3>(p, tokens);
  convWidth<0>(p, tokens);
}

// sums[j] += sum_t d[t] x[t + j], a vector of channels and up to kGroup taps at a time.
constexpr int kGroup = 4;

template <int kCount>
void correlateTaps(const TapLoop& p, const float* d, int64_t ldD, int64_t tokens, int64_t j, float* sums) {
  for (int64_t c = 0; c < p.channels; c += kLanes) {
    const int n = lanesLeft(c, p.channels);
    Vec acc[kCount];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) acc[i] = zero();
    if (n < kLanes) {
      for (int64_t t = 0; t < tokens; ++t) {
        const Vec g = loadPart(d + t * ldD + c, n);
        for (int i = 0; i < kCount; ++i) acc[i] = fma(g, get(p.x, (j + t + i) * p.ldX + c, n), acc[i]);
      }
    } else {
      withDType(
          p.x.dtype, [&](auto e) __attribute__((always_inline)) {
            using E = decltype(e);
            const auto* x = elements<E>(p.x.data, j * p.ldX + c);
            for (int64_t t = 0; t < tokens; ++t) {
              const Vec g = load(d + t * ldD + c);
#pragma GCC unroll 4
              for (int i = 0; i < kCount; ++i) acc[i] = fma(g, E::load(x + (t + i) * p.ldX), acc[i]);
            }
          });
    }
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      float* out = sums + (j + i) * p.ldTaps + c;
      put(out, get(out, n) + acc[i], n);
    }
  }
}

// p.x, p.ldX, p.W, p.ldTaps (of sums) and p.channels count; the rest of p is not looked at.
void correlate(const TapLoop& p, const float* d, int64_t ldD, int64_t tokens, float* sums) {
  int64_t j = 0;
  for (; j + kGroup <= p.W; j += kGroup) correlateTaps<kGroup>(p, d, ldD, tokens, j, sums);
  for (; j < p.W; ++j) correlateTaps<1>(p, d, ldD, tokens, j, sums);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
