// The fused product with the base's int8 codes as they are and rows of x rounded to int8: exact integer sums, four
// products at a time. Part of lora.inl.
//
// Row i of x becomes codes c = round(127 x / max|x|), which the dot product wants unsigned: c + 128, and 128 times the
// sum of a column's codes is taken off at the end. A row that is not finite has no such codes; its y is NaN.
namespace rankone {
namespace RANKONE_ISA_NS {

struct Int8Sums {
  float* to;  // int32, by their bits
  int64_t ld;
  const float* from;
  RANKONE_INLINE void begin(int, int) const {}
  template <int MR, int NV>
  RANKONE_INLINE void put(const Vec (&acc)[MR][NV]) const {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        const int64_t at = i * ld + j * kLanes;
        store(to + at, from ? (Vec)((IVec)load(from + at) + (IVec)acc[i][j]) : acc[i][j]);
      }
  }
};

template <>
struct TileArithmetic<Int8Sums> {
  static RANKONE_INLINE Vec multiplyAdd(Vec a, Vec b, Vec c) {
    return (Vec)_mm512_dpbusd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
  }
};

namespace {

constexpr int64_t kInt8Words = 2048;  // of a panel at a time: it stays in L2 while the rows pass

// Codes of one row, 64 at a time; its scale is NaN where an element is not finite.
template <class D>
float roundRow(const typename D::Element* x, int64_t n, uint8_t* codes) {
  Vec most = zero(), finite = zero();
  const auto part = [&](int64_t k) __attribute__((always_inline)) {
    return k + kLanes <= n ? D::load(x + k) : k < n ? D::loadPart(x + k, static_cast<int>(n - k)) : zero();
  };
  for (int64_t k = 0; k < n; k += kLanes) {
    const Vec v = part(k);
    most = atLeast(most, select(v == v, abs(v), zero()));
    finite = fma(v, zero(), finite);
  }
  const float largest = rankone::RANKONE_ISA_NS::largest(most);
  const float lift = largest < 0x1p-100f ? 0x1p100f : 1.0f;  // 127 / largest may be beyond float32
  const Vec lifted = splat(lift), inverse = splat(largest > 0 ? 127.0f / (largest * lift) : 0.0f);
  for (int64_t k = 0; k < n; k += 4 * kLanes)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i code =
          _mm512_add_epi32(_mm512_cvtps_epi32(part(k + j * kLanes) * lifted * inverse), _mm512_set1_epi32(128));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + k + j * kLanes), _mm512_cvtusepi32_epi8(code));
    }
  return largest / 127.0f + sum(finite);
}

// Words of four steps each, as panels of tiles; then the rows' scales.
constexpr int64_t int8Floats(int64_t words) {
  return alignFloats(panelStride<kTileRows>(2 * roundUp(words, kLanes))) + 16;
}

void packInt8(const LoraArgs& p, int64_t row, int rows, int64_t words, float* packed) {
  const int64_t ld = roundUp(words * 4, 4 * kLanes);
  Scratch scratch(kTileRows * ld / 4);
  auto* codes = reinterpret_cast<uint8_t*>(scratch.take(kTileRows * ld / 4));
  float* scales = packed + int8Floats(words) - 16;
  for (int i = 0; i < rows; ++i)
    scales[i] = withDType(p.dtype, [&](auto d) {
      using D = decltype(d);
      return roundRow<D>(static_cast<const typename D::Element*>(p.x) + (row + i) * p.in, p.in, codes + i * ld);
    });
  Prefetch none;
  // Four codes travel as two of bf16 would, in whole squares: a rest would be read as numbers.
  const Operand<BF16> lines{reinterpret_cast<const uint16_t*>(codes), ld / 2, true};
  packPanels<kTileRows>(lines, 0, rows, 0, ld / 2, packed, none);
}

// 128 times the sum of every column's codes.
void int8Offsets(const Panels& m, int64_t p, int32_t (&offsets)[kPanel]) {
  const uint32_t* w = m.panel(p);
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(128));
  __m512i total[kTileVecs] = {};
  for (int64_t k = 0; k < m.units(); ++k, w += kPanel)
    for (int v = 0; v < kTileVecs; ++v)
      total[v] = _mm512_dpbusd_epi32(total[v], offset, _mm512_loadu_si512(w + v * kLanes));
  for (int v = 0; v < kTileVecs; ++v) _mm512_storeu_si512(offsets + v * kLanes, total[v]);
}

void int8Task(const LoraJob& job, const LoraSlab& s, int64_t first, int64_t last, int64_t begin, int64_t end) {
  const Panels& base = *job.p.base;
  const int64_t words = base.units(), tiles = end - begin;
  const int64_t kept = words > kInt8Words ? tiles * kTileRows * kPanel : 0;
  Scratch scratch(alignFloats(kept) + kTileRows * kPanel);
  float *sums = scratch.take(kept), *local = scratch.take(kTileRows * kPanel);
  int32_t offsets[kPanel];
  for (int64_t p = first; p < last; ++p) {
    int8Offsets(base, p, offsets);
    for (int64_t k = 0; k < words; k += kInt8Words) {
      const int64_t count = std::min(kInt8Words, words - k);
      const bool isLast = k + count == words;
      const uint32_t* panel = base.panel(p) + k * kPanel;
      const int64_t groups = tiles * ((count + kGroup - 1) / kGroup);
      Prefetch prefetch;
      if (!isLast || p + 1 < last)
        prefetch = prefetchWords(base, isLast ? base.panel(p + 1) : panel + count * kPanel,
                                 4 * std::min(kInt8Words, isLast ? words : words - k - count), groups);
      for (int64_t t = begin; t < end; ++t) {
        const int64_t tile = s.first + t;
        const int rows = static_cast<int>(std::min<int64_t>(kTileRows, job.p.rows - tile * kTileRows));
        const float* x = s.x + t * s.xStride;
        float* of = sums + (t - begin) * kTileRows * kPanel;
        if (isLast) prefetchRanks(job, tile, p);
        pickTile<kTileRows, Int8Sums>(rows, kTileVecs)(count, x + k * kTileRows, reinterpret_cast<const float*>(panel),
                                                       kPanel, {isLast ? local : of, kPanel, k ? of : nullptr},
                                                       prefetch);
        if (!isLast) continue;
        const float* scales = x + s.xStride - 16;
        for (int i = 0; i < rows; ++i)
          for (int v = 0; v < kPanel; v += kLanes) {
            float* at = local + i * kPanel + v;
            const IVec exact = (IVec)load(at) - (IVec)_mm512_loadu_si512(offsets + v);
            store(at, __builtin_convertvector(exact, Vec) * splat(scales[i]));
          }
        finishTile(job, tile, p, s.w + t * s.wStride, local);
      }
    }
  }
}

void int8Product(const LoraJob& job) {
  const LoraArgs& args = job.p;
  const int64_t words = args.base->units();
  inSlabs(
      job, int8Floats(words),
      [&](int64_t tile, float* x, float* w) {
        const int64_t row = tile * kTileRows;
        packInt8(args, row, static_cast<int>(std::min<int64_t>(kTileRows, args.rows - row)), words, x);
        if (!args.slots) return;
        const int64_t floats = panelStride<kTileRows>(args.in);
        Scratch scratch(floats);
        prepareTile(job, tile, scratch.take(floats), w);
      },
      int8Task);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
