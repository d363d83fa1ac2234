// Panels: every step's code at the place that panels.h names, low-bit codes the nearest, scales as their formats say.
#include "kernels/panels.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "random.h"

namespace rankone::test {
namespace {

constexpr PanelFormat kFormats[] = {PanelFormat::F32, PanelFormat::BF16, PanelFormat::F16, PanelFormat::Int8,
                                    PanelFormat::Q8,  PanelFormat::Nf4,  PanelFormat::Q4};
constexpr const char* kNames[] = {"f32", "bf16", "f16", "int8", "q8", "nf4", "q4"};
constexpr int64_t kSizes[][2] = {{1, 1},  {3, 5},   {33, 7},   {5, 64}, {17, 40},   {40, 129},
                                 {2, 96}, {64, 32}, {70, 200}, {16, 8}, {31, 1000}, {0, 16}};

struct Packed {
  Panels panels;
  std::vector<uint32_t> words;
  std::vector<float> scales;
};

Packed sized(PanelFormat format, int64_t rows, int64_t depth, int width) {
  Packed p{panelsOf(format, rows, depth, width), {}, {}};
  p.words.assign(p.panels.wordCount(), 0xdeadbeef);
  p.scales.assign(p.panels.scaleCount(), std::nanf(""));
  p.panels.words = p.words.data();
  p.panels.scales = p.scales.data();
  return p;
}

double halfValue(uint32_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 31 ? (fraction ? std::nan("") : INFINITY)
                           : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                          : std::ldexp(fraction, -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// The value at a place, read by what panels.h says and by nothing else.
double valueAt(const Packed& p, int64_t row, int64_t step, double* scaleOf = nullptr) {
  const Panels& m = p.panels;
  const int64_t panel = row / m.width, lane = row % m.width;
  const int steps = panelSteps(m.format), s = static_cast<int>(step % steps);
  const uint32_t word = p.words[panel * m.stride() + step / steps * m.width + lane];
  double scale = 1, code = 0;
  if (m.format == PanelFormat::Int8) scale = p.scales[panel * m.width + lane];
  if (m.block) scale = p.scales[(panel * m.blocks() + step / m.block) * m.width + lane];
  float f;
  std::memcpy(&f, &word, sizeof f);
  const uint32_t nibble = word >> (16 * (s % 2) + 4 * (s / 2)) & 15;
  switch (m.format) {
    case PanelFormat::F32: code = f; break;
    case PanelFormat::BF16: {
      const uint32_t bits = (s ? word >> 16 : word & 0xffff) << 16;
      std::memcpy(&f, &bits, sizeof f);
      code = f;
      break;
    }
    case PanelFormat::F16: code = halfValue(s ? word >> 16 : word & 0xffff); break;
    case PanelFormat::Int8:
    case PanelFormat::Q8: code = static_cast<int8_t>(word >> 8 * s & 255); break;
    case PanelFormat::Nf4: code = kNf4Values[nibble]; break;
    case PanelFormat::Q4: code = static_cast<int>(nibble) - 8; break;
  }
  if (scaleOf) *scaleOf = scale;
  return code * scale;
}

void expectUnpacked(const char* label, const Packed& p) {
  std::vector<float> row(p.panels.depth + 1, 12345.0f);
  for (int64_t r = 0; r < p.panels.rows; ++r) {
    unpackRow(p.panels, r, row.data());
    for (int64_t k = 0; k < p.panels.depth; ++k) {
      const float expected = static_cast<float>(valueAt(p, r, k));
      check(row[k] == expected || (row[k] != row[k] && expected != expected),
            "%s: unpacked (%d, %d): %g, stands for %g", label, int(r), int(k), row[k], expected);
    }
    check(row[p.panels.depth] == 12345.0f, "%s: unpackRow wrote too far", label);
  }
}

// Steps beyond the depth and rows beyond the last one.
void expectPadding(const char* label, const Packed& p) {
  const Panels& m = p.panels;
  for (int64_t r = 0; r < m.count() * m.width; ++r)
    for (int64_t k = r < m.rows ? m.depth : 0; k < m.units() * panelSteps(m.format); ++k)
      check(valueAt(p, r, k) == 0, "%s: (%d, %d) is no zero", label, int(r), int(k));
}

// The elements that share a scale with (row, step).
struct Group {
  double magnitude = 0, first = 0;  // the first of the largest magnitude
};

Group groupOf(PanelFormat format, const Values& w, int64_t depth, int64_t row, int64_t step) {
  const int64_t at = row * depth + step;
  int64_t begin = row * depth, end = begin + depth;
  if (format == PanelFormat::Nf4) {
    begin = at / 64 * 64;
    end = std::min<int64_t>(begin + 64, static_cast<int64_t>(w.size()));
  } else if (format != PanelFormat::Int8) {
    begin += step / 32 * 32;
    end = std::min(end, begin + 32);
  }
  Group g;
  for (int64_t i = begin; i < end; ++i)
    if (std::fabs(w[i]) > g.magnitude) {
      g.magnitude = std::fabs(w[i]);
      g.first = w[i];
    }
  return g;
}

double nearest(PanelFormat format, double w, double scale) {
  double best = 0, distance = INFINITY;
  const auto attempt = [&](double value) {
    if (std::fabs(w - value) >= distance) return;
    distance = std::fabs(w - value);
    best = value;
  };
  if (format == PanelFormat::Nf4)
    for (float v : kNf4Values) attempt(v * scale);
  else
    for (int c = format == PanelFormat::Q4 ? -8 : -127; c <= (format == PanelFormat::Q4 ? 7 : 127); ++c)
      attempt(c * scale);
  return best;
}

void expectDense(const char* label, PanelFormat format, const Packed& p, const Values& w) {
  const int64_t depth = p.panels.depth;
  for (int64_t r = 0; r < p.panels.rows; ++r)
    for (int64_t k = 0; k < depth; ++k) {
      const double x = w[r * depth + k];
      double scale;
      const double value = valueAt(p, r, k, &scale);
      if (panelSteps(format) <= 2) {
        const DType dtype = format == PanelFormat::F32    ? DType::F32
                            : format == PanelFormat::BF16 ? DType::BF16
                                                          : DType::F16;
        check(value == Array({1}, {x}, dtype).at(0), "%s: (%d, %d): %g for %g", label, int(r), int(k), value, x);
        continue;
      }
      const Group g = groupOf(format, w, depth, r, k);
      const double expected = format == PanelFormat::Nf4  ? g.magnitude
                              : format == PanelFormat::Q4 ? g.first / -8
                                                          : g.magnitude / 127;
      if (p.panels.nf4Values)
        scale = expected;
      else
        check(std::fabs(scale - expected) <= 1e-7 * std::fabs(expected), "%s: (%d, %d): scale %g, expected %g", label,
              int(r), int(k), scale, expected);
      const double best = nearest(format, x, scale);
      check(std::fabs(x - value) <= std::fabs(x - best) + 1e-6 * g.magnitude, "%s: (%d, %d): %g for %g, nearest is %g",
            label, int(r), int(k), value, x, best);
    }
}

// Numbers with all-zero blocks, rows that are small against their neighbours, and largest ones of either sign.
Array drawMatrix(int64_t rows, int64_t depth, DType dtype, uint64_t seed) {
  Random random(seed, dtype);
  Array w = random.normals({rows, depth});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < depth; ++k) {
      double x = w.at(r * depth + k);
      if (r % 5 == 1) x *= 1e-3;
      if (r % 7 == 2 || (r % 3 == 0 && k / 32 == 1)) x = 0;
      w.set(r * depth + k, x);
    }
  return w;
}

TEST("panels of dense matrices") {
  uint64_t seed = 1;
  for (const PanelFormat format : kFormats)
    for (const auto& [rows, depth] : kSizes)
      for (const DType dtype : {DType::F32, DType::BF16, DType::F16})
        for (const bool transposed : {false, true}) {
          const Array w = drawMatrix(rows, depth, dtype, ++seed);
          const int64_t lines = transposed ? depth : rows, length = transposed ? rows : depth, ld = length + seed % 3;
          Array laid(Shape{std::max<int64_t>(0, (lines - 1) * ld + length)}, dtype);
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t k = 0; k < depth; ++k) laid.set(transposed ? k * ld + r : r * ld + k, w.at(r * depth + k));
          char label[96];
          std::snprintf(label, sizeof label, "%s from %s [%d, %d]%s", kNames[int(format)], dtypeName(dtype), int(rows),
                        int(depth), transposed ? " transposed" : "");
          const int width = seed % 2 ? panelWidth() : panelWidth() / 2;
          Packed p = sized(format, rows, depth, width);
          packDense(laid.tensor().data, dtype, ld, transposed, p.panels, p.words.data(), p.scales.data());
          expectDense(label, format, p, w.values());
          expectPadding(label, p);
          expectUnpacked(label, p);
        }
}

TEST("panels of codes") {
  uint64_t seed = 1000;
  for (const PanelFormat format : {PanelFormat::Int8, PanelFormat::Q8, PanelFormat::Nf4, PanelFormat::Q4})
    for (const auto& [rows, depth] : kSizes) {
      Random random(++seed);
      const int64_t perRow = (depth + 31) / 32;
      std::vector<uint8_t> codes(rows * depth);
      for (uint8_t& c : codes) c = static_cast<uint8_t>(random.below(panelSteps(format) == 8 ? 16 : 256));
      std::vector<float> given(format == PanelFormat::Int8  ? rows
                               : format == PanelFormat::Nf4 ? (rows * depth + 63) / 64
                                                            : rows * perRow);
      for (float& s : given) s = static_cast<float>(random.normal());
      Packed p = sized(format, rows, depth, seed % 2 ? panelWidth() : panelWidth() / 2);
      packCodes(codes.data(), given.data(), p.panels, p.words.data(), p.scales.data());
      char label[64];
      std::snprintf(label, sizeof label, "%s codes [%d, %d]", kNames[int(format)], int(rows), int(depth));
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < depth; ++k) {
          const uint8_t c = codes[r * depth + k];
          const float scale = given[format == PanelFormat::Int8  ? r
                                    : format == PanelFormat::Nf4 ? (r * depth + k) / 64
                                                                 : r * perRow + k / 32];
          const float value = format == PanelFormat::Nf4  ? kNf4Values[c]
                              : format == PanelFormat::Q4 ? static_cast<float>(c - 8)
                                                          : static_cast<float>(static_cast<int8_t>(c));
          check(static_cast<float>(valueAt(p, r, k)) == value * scale, "%s: (%d, %d): %g, expected %g", label, int(r),
                int(k), valueAt(p, r, k), value * scale);
        }
      expectPadding(label, p);
      expectUnpacked(label, p);
    }
}

// What cannot be rounded makes all that shares its scale NaN, and nothing else.
TEST("panels of NaN and infinity") {
  const float bad[] = {NAN, INFINITY, -INFINITY};
  for (const PanelFormat format : kFormats)
    for (const int64_t depth : {int64_t{100}, int64_t{104}, int64_t{128}})
      for (const float x : bad) {
        const int64_t rows = 5, row = 2, step = 70;
        Array w = Random(7).normals({rows, depth});
        w.set(row * depth + step, x);
        Packed p = sized(format, rows, depth, panelWidth());
        packDense(w.tensor().data, DType::F32, depth, false, p.panels, p.words.data(), p.scales.data());
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t k = 0; k < depth; ++k) {
            const double value = valueAt(p, r, k);
            const bool here = r == row && k == step;
            const bool shared = format == PanelFormat::Int8  ? r == row
                                : format == PanelFormat::Nf4 ? (r * depth + k) / 64 == (row * depth + step) / 64
                                                             : r == row && k / 32 == step / 32;
            if (panelSteps(format) > 2)
              check(std::isnan(value) == shared, "%s depth %d: (%d, %d) is %g", kNames[int(format)], int(depth), int(r),
                    int(k), value);
            else
              check(here ? value == x || (x != x && value != value) : std::isfinite(value), "%s: (%d, %d) is %g",
                    kNames[int(format)], int(r), int(k), value);
          }
        expectUnpacked(kNames[int(format)], p);
      }
}

}  // namespace
}  // namespace rankone::test
