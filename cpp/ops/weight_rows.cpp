#include "ops/weight_rows.h"

#include <bit>
#include <cstring>

#include "core/widen.h"
#include "kernels/split.h"

namespace rankone {
namespace {

static_assert(RANKONE_WEIGHT_BF16 == static_cast<int>(PanelFormat::BF16) &&
              RANKONE_WEIGHT_INT8 == static_cast<int>(PanelFormat::Int8) &&
              RANKONE_WEIGHT_Q8 == static_cast<int>(PanelFormat::Q8) &&
              RANKONE_WEIGHT_NF4 == static_cast<int>(PanelFormat::Nf4) &&
              RANKONE_WEIGHT_Q4 == static_cast<int>(PanelFormat::Q4));

// Where step s of a word begins, see kernels/panels.h.
int shiftOf(int steps, int s) { return steps == 8 ? 16 * (s % 2) + 4 * (s / 2) : 32 / steps * s; }

// One row's codes, with a zero byte for what lies behind its end.
void writeRow(const Panels& p, int64_t row, uint8_t* to) {
  const uint32_t* words = p.panel(row / p.width) + row % p.width;
  const int steps = panelSteps(p.format);
  for (int64_t unit = 0; unit < p.units(); ++unit) {
    const uint32_t word = words[unit * p.width];
    if (steps < 8) {
      std::memcpy(to + unit * 4, &word, 4);
      continue;
    }
    for (int s = 0; s < 8; s += 2) {
      const uint32_t even = word >> shiftOf(8, s) & 15, odd = word >> shiftOf(8, s + 1) & 15;
      to[unit * 4 + s / 2] = static_cast<uint8_t>(even | odd << 4);
    }
  }
  // The last word's steps beyond the depth stand for zeros by their codes; in rows it is the bytes that are zero.
  const int64_t used = p.depth * 4 / steps;
  if (steps == 8 && p.depth % 2) to[used] &= 15;
  const int64_t first = steps == 8 ? (p.depth + 1) / 2 : used;
  std::memset(to + first, 0, static_cast<size_t>(p.units() * 4 - first));
}

void overRows(int64_t rows, int64_t depth, TaskBody body) {
  const Split split = splitWork(rows, 8 * depth);
  parallelFor(split.tasks, nullptr, [&](int64_t task) {
    for (int64_t row = split.begin(task); row < split.end(task); ++row) body(row);
  });
}

float valueAt(const RankoneWeight& w, const uint8_t* row, const float* scales, int64_t column) {
  const auto scale = [&] { return scales[w.block ? column / w.block : 0]; };
  const int nibble = row[column / 2] >> (column % 2 * 4) & 15;
  uint32_t bits;
  switch (w.format) {
    case RANKONE_WEIGHT_F32: std::memcpy(&bits, row + column * 4, 4); return std::bit_cast<float>(bits);
    case RANKONE_WEIGHT_BF16:
    case RANKONE_WEIGHT_F16:
      bits = row[column * 2] | static_cast<uint32_t>(row[column * 2 + 1]) << 8;
      return w.format == RANKONE_WEIGHT_F16 ? halfToFloat(static_cast<uint16_t>(bits))
                                            : std::bit_cast<float>(bits << 16);
    case RANKONE_WEIGHT_NF4: return kNf4Values[nibble] * scale();
    case RANKONE_WEIGHT_Q4: return static_cast<float>(nibble - 8) * scale();
    default: return static_cast<float>(static_cast<int8_t>(row[column])) * scale();
  }
}

int64_t blocksOf(const RankoneWeight& w) {
  return w.block ? (w.in + w.block - 1) / w.block : w.format == RANKONE_WEIGHT_INT8 ? 1 : 0;
}

}  // namespace

RankoneWeight weightRowsOf(const Panels& p) {
  RankoneWeight w{};
  w.format = static_cast<int32_t>(p.format);
  w.out = p.rows;
  w.in = p.depth;
  w.block = p.block;
  w.rowBytes = (p.units() * 4 + 15) / 16 * 16;
  return w;
}

size_t codeBytes(const RankoneWeight& w) { return static_cast<size_t>(w.out * w.rowBytes); }
size_t scaleCount(const RankoneWeight& w) { return static_cast<size_t>(w.out * blocksOf(w)); }

WeightRows rowsOf(const Panels& p) {
  WeightRows rows;
  rows.weight = weightRowsOf(p);
  rows.codes.resize(codeBytes(rows.weight));
  rows.scales.resize(scaleCount(rows.weight));
  const int64_t blocks = p.blocks();
  overRows(p.rows, p.depth, [&](int64_t row) {
    writeRow(p, row, rows.codes.data() + row * rows.weight.rowBytes);
    for (int64_t b = 0; b < blocks; ++b)
      rows.scales[row * blocks + b] = p.panelScales(row / p.width)[b * p.width + row % p.width];
  });
  return rows;
}

void unpackRows(const RankoneWeight& w, const uint8_t* codes, const float* scales, float* to) {
  const int64_t blocks = blocksOf(w);
  overRows(w.out, w.in, [&](int64_t row) {
    for (int64_t column = 0; column < w.in; ++column)
      to[row * w.in + column] = valueAt(w, codes + row * w.rowBytes, scales ? scales + row * blocks : nullptr, column);
  });
}

}  // namespace rankone
