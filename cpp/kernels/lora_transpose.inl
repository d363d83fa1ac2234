// Panels turned round: what is summed over are a panel's rows there, and its steps are the columns. Part of
// lora_backward.inl.
#include "kernels/lora_shrink.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// kLanes steps of kLanes rows, steps `width` floats apart, as units of rows: to[unit * ld]. `scale`: of each row.
template <int U>
RANKONE_INLINE void turnSquare(const float* from, int64_t width, const float* scale, float* to, int64_t ld) {
  Vec r[kLanes];
  if (scale) {
    const Vec s = load(scale);
    transposeRows(
        [&](int i) __attribute__((always_inline)) { return load(from + i * width) * s; }, r);
  } else {
    transposeRows(
        [&](int i) __attribute__((always_inline)) { return load(from + i * width); }, r);
  }
  if constexpr (U == 1) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(to + i * ld, r[i]);
  }
#if defined(RANKONE_BF16_DOT)
  if constexpr (U == 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; i += 2) store(to + i / 2 * ld, Expand<PanelFormat::F32, 2>::pairs(r[i], r[i + 1]));
  }
#endif
}

#if defined(RANKONE_BF16_DOT)
// The same of 2 kLanes steps that are bf16 already, two to a word.
RANKONE_INLINE void turnPairs(const uint32_t* from, int64_t width, float* to, int64_t ld) {
  Vec r[kLanes];
  transposeRows(
      [&](int i) __attribute__((always_inline)) { return (Vec)loadWords(from + i * width); }, r);
  const __m512i low = (__m512i)(IVec{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001 + 0x200000);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(kLanes));
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; i += 2) {
    const __m512i a = (__m512i)r[i], b = (__m512i)r[i + 1];
    store(to + i / 2 * ld, (Vec)_mm512_permutex2var_epi16(a, low, b));
    store(to + i / 2 * ld + kLanes, (Vec)_mm512_permutex2var_epi16(a, high, b));
  }
}
#endif

// Floats that turnPanels() writes for so many rows.
constexpr int64_t turnedFloats(int64_t rows, int units) { return roundUp(rows, kPanel) / units * kPanel; }

// Steps [step, step + vecs * kLanes) of rows [row, row + rows): to[unit * vecs * kLanes + column], with units of U
// rows. row is the beginning of a panel, step a multiple of kPanel; columns beyond the depth hold anything.
template <int U>
__attribute__((noinline)) void turnPanels(const Panels& m, int64_t row, int64_t rows, int64_t step, int vecs,
                                          float* to) {
  alignas(64) float expanded[expandedFloats(kPanel, kPanel)];
  const int64_t columns = vecs * kLanes, width = m.width, ld = columns;
  const bool whole = step + columns <= m.depth;
  for (int64_t p = row / width; p * width < row + rows; ++p, to += width / U * ld) {
#if defined(RANKONE_BF16_DOT)
    if (U == 2 && m.format == PanelFormat::BF16 && vecs == 2 && whole) {
      const uint32_t* words = m.panel(p) + step / 2 * width;
      for (int64_t v = 0; v < width; v += kLanes) turnPairs(words + v, width, to + v / U * ld, ld);
      continue;
    }
#endif
    const float* from = expanded;
    if (m.format == PanelFormat::F32 && whole)
      from = reinterpret_cast<const float*>(m.panel(p)) + step * width;
    else
      expandPanel<1>(m, p, step, std::min(columns, m.depth - step), expanded);
    const float* scale = m.format == PanelFormat::Int8 ? m.panelScales(p) : nullptr;
    for (int64_t v = 0; v < width; v += kLanes)
      for (int64_t c = 0; c < columns; c += kLanes)
        turnSquare<U>(from + c * width + v, width, scale ? scale + v : nullptr, to + v / U * ld + c, ld);
  }
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
