// Matrices in panels: how packed weights and adapters lie in memory, for products that read them once, in order.
//
// A panel holds `width` rows of a matrix [rows, depth], word by word along the depth: words[w * width + i] belongs to
// row i. A word has 32 bits and as many steps of the depth as fit, step 0 first:
//
//   F32        1 step, a float
//   BF16 F16   2 steps, the earlier one in the low half
//   Int8 Q8    4 steps, signed bytes from the lowest on
//   Nf4 Q4     8 steps; step 2 j + p of a word is the nibble at bit 16 p + 4 j
//
// The last word's steps beyond the depth, and the rows beyond the last one, stand for zeros. Values are codes times a
// scale: Int8 has one scale a row, at scales[panel * width + i], the others one a block of steps, at
// scales[(panel * blocks + block) * width + i]. Blocks are 32 steps (Q8, Q4) or the largest of 64, 32, 16 and 8 that
// divides the depth (Nf4, whose own blocks of 64 run on over the ends of rows). Nf4 of a depth that 8 does not divide
// has no such block: its values are kept as floats, `nf4Values`.
#pragma once
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "core/parallel.h"
#include "core/tensor.h"

namespace rankone {

enum class PanelFormat : uint8_t { F32, BF16, F16, Int8, Q8, Nf4, Q4 };

constexpr int panelSteps(PanelFormat f) {
  return f == PanelFormat::F32                             ? 1
         : f == PanelFormat::BF16 || f == PanelFormat::F16 ? 2
         : f == PanelFormat::Int8 || f == PanelFormat::Q8  ? 4
                                                           : 8;
}

extern const float kNf4Values[16];  // Dettmers et al., QLoRA, 2023

// A borrowed matrix in panels.
struct Panels {
  PanelFormat format = PanelFormat::F32;
  bool nf4Values = false;  // F32 that packDense and packCodes write as Nf4's values
  int width = 0;           // panelWidth(), or half of it
  int64_t rows = 0, depth = 0;
  int64_t block = 0;  // steps of a scale; 0: none (F32, BF16, F16), or one for the whole row (Int8)
  const uint32_t* words = nullptr;
  const float* scales = nullptr;

  int64_t count() const { return (rows + width - 1) / width; }
  int64_t units() const { return (depth + panelSteps(format) - 1) / panelSteps(format); }  // words of a row
  // A cache line more than needed: panels that are read side by side would share a cache set.
  int64_t stride() const { return (units() * width + 15) / 16 * 16 + 16; }  // words from one panel to the next
  int64_t blocks() const { return block ? (depth + block - 1) / block : format == PanelFormat::Int8 ? 1 : 0; }
  const uint32_t* panel(int64_t p) const { return words + p * stride(); }
  const float* panelScales(int64_t p) const { return scales ? scales + p * blocks() * width : nullptr; }
  size_t wordCount() const { return static_cast<size_t>(count() * stride()); }
  size_t scaleCount() const { return static_cast<size_t>(count() * blocks() * width); }
};

// Rows of a panel on the instruction set in use: two vectors of float32.
int panelWidth();

// How a matrix would lie in panels, as panels without words and scales.
inline Panels panelsOf(PanelFormat format, int64_t rows, int64_t depth, int width = panelWidth()) {
  Panels p;
  p.nf4Values = format == PanelFormat::Nf4 && depth % 8;
  p.format = p.nf4Values ? PanelFormat::F32 : format;
  p.width = width;
  p.rows = rows;
  p.depth = depth;
  p.block = p.format == PanelFormat::Nf4                                 ? std::gcd(depth, int64_t{64})
            : p.format == PanelFormat::Q8 || p.format == PanelFormat::Q4 ? 32
                                                                         : 0;
  return p;
}

// `to`'s words and scales, wordCount() and scaleCount() of them, from a matrix: element (row, step) stands at
// data[row * ld + step], or at data[step * ld + row] where `transposed`. The low-bit formats are rounded here, to the
// nearest code: Int8 and Q8 by the largest magnitude / 127, Q4 by the value of the largest magnitude / -8 as ggml's
// q4_0 (codes 0 .. 15 about 8), Nf4 by the largest magnitude of every 64 elements in row-major order. Where there is a
// NaN or an infinity among the elements of a scale, the scale is NaN, and so is all that they stand for.
void packDense(const void* data, DType dtype, int64_t ld, bool transposed, const Panels& to, uint32_t* words,
               float* scales, const CancelFlag* cancel = nullptr);

// The same from codes as others have stored them, one a byte, row-major [rows, depth]: signed for Int8 and Q8, 0 .. 15
// for Nf4 and Q4. scaleOf: row-major, one for every row (Int8) or for every block of `block` elements in row-major
// order, which for Q8 and Q4 begin with the row.
void packCodes(const uint8_t* codes, const float* scaleOf, const Panels& to, uint32_t* words, float* scales,
               const CancelFlag* cancel = nullptr);

// The values that one row stands for, `depth` of them.
void unpackRow(const Panels& from, int64_t row, float* to);

}  // namespace rankone
