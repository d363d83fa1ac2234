// Words of panels (kernels/panels.h) as what products multiply: float32 steps, or the units of matmul's panels. Part of
// lora.inl and lora_backward.inl.
namespace rankone {
namespace RANKONE_ISA_NS {

alignas(64) inline constexpr float kQ4Values[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

// What sixteen codes stand for, looked up by the low four bits of every lane.
struct Nibbles {
#if RANKONE_LEVEL == 2
  Vec all;
  RANKONE_INLINE explicit Nibbles(const float* values) : all(load(values)) {}
  RANKONE_INLINE Vec at(UVec index) const { return _mm512_permutexvar_ps((__m512i)index, all); }
#elif RANKONE_LEVEL == 1
  Vec low, high;
  RANKONE_INLINE explicit Nibbles(const float* values) : low(load(values)), high(load(values + 8)) {}
  RANKONE_INLINE Vec at(UVec index) const {
    const __m256i i = (__m256i)index;
    const Vec a = _mm256_permutevar8x32_ps(low, i), b = _mm256_permutevar8x32_ps(high, i);
    return _mm256_blendv_ps(a, b, (Vec)(index << 28));
  }
#else
  const float* values;
  RANKONE_INLINE explicit Nibbles(const float* v) : values(v) {}
  RANKONE_INLINE Vec at(UVec index) const {
    Vec x;
    for (int i = 0; i < kLanes; ++i) x[i] = values[index[i] & 15u];
    return x;
  }
#endif
};
struct NoNibbles {
  RANKONE_INLINE explicit NoNibbles(const float*) {}
};

RANKONE_INLINE const float* nibbleValues(PanelFormat f) { return f == PanelFormat::Nf4 ? kNf4Values : kQ4Values; }

constexpr bool isNibbles(PanelFormat f) { return f == PanelFormat::Nf4 || f == PanelFormat::Q4; }
constexpr bool hasBlocks(PanelFormat f) { return f == PanelFormat::Q8 || isNibbles(f); }

RANKONE_INLINE UVec loadWords(const uint32_t* p) { return (UVec)load(reinterpret_cast<const float*>(p)); }

// Units of U steps each: float32, or (U = 2) pairs of bf16. Q4 is Nf4 with other values, which the constructor takes
// from the panels' own format: one code for both.
template <PanelFormat F, int U>
struct Expand : std::conditional_t<isNibbles(F), Nibbles, NoNibbles> {
  static constexpr int kSteps = panelSteps(F);
  static constexpr int kWordRows = kSteps < U ? 2 : 1;        // words of a row that a turn takes
  static constexpr int kUnits = kSteps < U ? 1 : kSteps / U;  // and the units that they make

  RANKONE_INLINE explicit Expand(PanelFormat format)
      : std::conditional_t<isNibbles(F), Nibbles, NoNibbles>(nibbleValues(format)) {}

  // Step s of every word; the scale is that of a block, Int8's being its caller's.
  RANKONE_INLINE Vec step(UVec w, Vec scale, int s) const {
    if constexpr (F == PanelFormat::F32) {
      return (Vec)w;
    } else if constexpr (F == PanelFormat::BF16) {
      return (Vec)(s ? w & 0xffff0000u : w << 16);
    } else if constexpr (F == PanelFormat::F16) {
      return F16::widen(lowHalves(s ? w >> 16 : w));
    } else if constexpr (F == PanelFormat::Int8 || F == PanelFormat::Q8) {
      const Vec code = __builtin_convertvector((IVec)(w << (24 - 8 * s)) >> 24, Vec);
      return F == PanelFormat::Q8 ? code * scale : code;
    } else {
      return this->at(w >> (16 * (s & 1) + 4 * (s >> 1))) * scale;
    }
  }

  RANKONE_INLINE Vec unit(const UVec (&w)[kWordRows], Vec scale, int u) const {
    if constexpr (U == 1) return step(w[0], scale, u);
#if defined(RANKONE_BF16_DOT)
    else if constexpr (F == PanelFormat::BF16)
      return (Vec)w[0];
    else if constexpr (kWordRows == 2)
      return pairs((Vec)w[0], (Vec)w[1]);
    else
      return pairs(step(w[0], scale, 2 * u), step(w[0], scale, 2 * u + 1));
#endif
  }

#if defined(RANKONE_BF16_DOT)
  // Rounded to bf16, the first one in the low half.
  static RANKONE_INLINE Vec pairs(Vec low, Vec high) {
    const __m512i order = (__m512i)(IVec{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001 + 0x100000);
    return (Vec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
#endif
};

// Whether a panel's words are the units.
template <int U>
RANKONE_INLINE bool isDirect(PanelFormat f) {
  return f == (U == 1 ? PanelFormat::F32 : PanelFormat::BF16);
}

// The one switch over the formats: f(std::integral_constant<PanelFormat, F>{}), where Nf4 stands for Q4 too.
template <class Function>
RANKONE_INLINE void withFormat(PanelFormat format, Function&& f) {
  switch (format) {
    case PanelFormat::F32: return f(std::integral_constant<PanelFormat, PanelFormat::F32>{});
    case PanelFormat::BF16: return f(std::integral_constant<PanelFormat, PanelFormat::BF16>{});
    case PanelFormat::F16: return f(std::integral_constant<PanelFormat, PanelFormat::F16>{});
    case PanelFormat::Int8: return f(std::integral_constant<PanelFormat, PanelFormat::Int8>{});
    case PanelFormat::Q8: return f(std::integral_constant<PanelFormat, PanelFormat::Q8>{});
    case PanelFormat::Nf4:
    case PanelFormat::Q4: return f(std::integral_constant<PanelFormat, PanelFormat::Nf4>{});
  }
}

constexpr int64_t kExpandAhead = 1024;  // bytes of words to prefetch

// The blocks of steps with one scale that [step0, step0 + steps) consists of: visit(words, scales, first unit, word
// rows).
template <PanelFormat F, int U, class Visit>
RANKONE_INLINE void forBlocks(const Panels& m, int64_t p, int64_t step0, int64_t steps, Visit&& visit) {
  using E = Expand<F, U>;
  const int64_t rows = (steps + E::kSteps - 1) / E::kSteps;
  const uint32_t* words = m.panel(p) + step0 / E::kSteps * m.width;
  if constexpr (!hasBlocks(F)) {
    visit(words, static_cast<const float*>(nullptr), int64_t{0}, rows);
  } else {
    const int64_t rowsOfBlock = m.block / E::kSteps;
    const float* scales = m.panelScales(p) + step0 / m.block * m.width;
    for (int64_t r = 0; r < rows; r += rowsOfBlock, scales += m.width)
      visit(words + r * m.width, scales, r * E::kUnits, std::min(rowsOfBlock, rows - r));
  }
}

// Units [step0, step0 + steps) / U of panel p: to[u * width + i]. A last word's excess units are written too. step0 is
// the beginning of a block.
template <PanelFormat F, int U>
__attribute__((noinline)) void expandPanelOf(const Panels& m, int64_t p, int64_t step0, int64_t steps, float* to) {
  using E = Expand<F, U>;
  const E expand(m.format);
  const int64_t width = m.width;
  forBlocks<F, U>(m, p, step0, steps, [&](const uint32_t* words, const float* scales, int64_t unit, int64_t rows) {
    float* out = to + unit * width;
    for (int64_t r = 0; r < rows; r += E::kWordRows, words += E::kWordRows * width, out += E::kUnits * width)
      for (int64_t v = 0; v < width; v += kLanes) {
        const Vec scale = scales ? load(scales + v) : zero();
        UVec w[E::kWordRows];
        w[0] = loadWords(words + v);
        if constexpr (E::kWordRows == 2) w[1] = r + 1 < rows ? loadWords(words + width + v) : UVec{};
        __builtin_prefetch(words + v + kExpandAhead / 4);
#pragma GCC unroll 8
        for (int u = 0; u < E::kUnits; ++u) store(out + u * width + v, expand.unit(w, scale, u));
      }
  });
}

template <int U>
void expandPanel(const Panels& m, int64_t p, int64_t step0, int64_t steps, float* to) {
  withFormat(m.format, [&](auto f) { expandPanelOf<decltype(f)::value, U>(m, p, step0, steps, to); });
}

// Floats that expandPanel() writes for so many steps.
constexpr int64_t expandedFloats(int64_t steps, int64_t width) { return roundUp(steps, 8) * width; }

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
