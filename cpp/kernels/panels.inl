// Packing of matrices into panels. A panel is made in chunks of steps: its elements as [steps, width] floats, then
// their codes, side by side for all rows, then words. Rounding is IEEE arithmetic and the same on every instruction
// set.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kChunk = 64;  // steps; a multiple of every block and of every word

RANKONE_INLINE UVec loadWords(const uint32_t* p) { return (UVec)load(reinterpret_cast<const float*>(p)); }
RANKONE_INLINE void storeWords(uint32_t* p, UVec x) { store(reinterpret_cast<float*>(p), (Vec)x); }

// The bit of a word at which a step's code begins.
RANKONE_INLINE int codeShift(int steps, int step) {
  return steps == 8 ? 16 * (step & 1) + 4 * (step >> 1) : 32 / steps * step;
}

// Codes [kChunk, width] as `units` words of every row.
void packWords(const uint32_t* codes, int steps, int64_t units, int width, uint32_t* words) {
  for (int64_t u = 0; u < units; ++u)
    for (int i = 0; i < width; i += kLanes) {
      UVec word = loadWords(codes + u * steps * width + i);
      for (int s = 1; s < steps; ++s) word |= loadWords(codes + (u * steps + s) * width + i) << codeShift(steps, s);
      storeWords(words + u * width + i, word);
    }
}

struct DenseMatrix {
  const void* data;
  DType dtype;
  int64_t ld;
  bool transposed;
};

// `steps` steps of `count` rows as to[step * width + row], zeros up to kChunk and `width`.
template <class D>
void fetchChunk(const DenseMatrix& m, int64_t row, int count, int64_t step, int64_t steps, int width, float* to) {
  const auto* data = static_cast<const typename D::Element*>(m.data);
  if (count < width || steps < kChunk) std::memset(to, 0, static_cast<size_t>(kChunk * width) * sizeof(float));
  if (m.transposed) {
    for (int64_t k = 0; k < steps; ++k) widenElements<D>(data + (step + k) * m.ld + row, count, to + k * width);
    return;
  }
  float line[kChunk];
  for (int i = 0; i < count; ++i) {
    widenElements<D>(data + (row + i) * m.ld + step, steps, line);
    for (int64_t k = 0; k < steps; ++k) to[k * width + i] = line[k];
  }
}

// What the elements of a scale have in common: the one of the largest magnitude, the first of them, or NaN where one
// is not finite.
struct Largest {
  Vec value{}, taint{};
  RANKONE_INLINE void add(Vec x) {
    value = select(abs(x) > abs(value), x, value);
    taint += x * 0.0f;
  }
  RANKONE_INLINE Vec signedValue() const { return value + taint; }
  RANKONE_INLINE Vec magnitude() const { return abs(value) + taint; }
};

// x / scale, 0 where the scale is 0 or NaN.
RANKONE_INLINE Vec scaled(Vec x, Vec scale) { return select(abs(scale) > 0.0f, x / scale, zero()); }

RANKONE_INLINE UVec nearestCode(PanelFormat format, Vec x, Vec scale) {
  const Vec q = scaled(x, scale);
  if (format == PanelFormat::Nf4) {
    IVec code{};
    for (int i = 0; i < 15; ++i) code -= q > splat(0.5f * (kNf4Values[i] + kNf4Values[i + 1]));
    return (UVec)code;
  }
  if (format == PanelFormat::Q4) {
    const Vec code = roundToInteger(atMost(atLeast(q, splat(-8.0f)), splat(7.0f)));
    return (UVec) __builtin_convertvector(code + 8.0f, IVec);
  }
  const Vec code = roundToInteger(atMost(atLeast(q, splat(-127.0f)), splat(127.0f)));
  return (UVec) __builtin_convertvector(code, IVec) & 255u;
}

// Nf4's largest magnitudes of every 64 elements, in row-major order, where blocks do not keep to rows.
void blockMagnitudes(const DenseMatrix& m, int64_t rows, int64_t depth, float* to, const CancelFlag* cancel) {
  const int64_t size = rows * depth, blocks = (size + 63) / 64;
  const FloatView view = [&] {
    FloatView v;
    v.data = m.data;
    v.dtype = m.dtype;
    return v;
  }();
  const Split split = splitWork(blocks, 1024);
  parallelFor(split.tasks, cancel, [&](int64_t t) {
    for (int64_t b = split.begin(t); b < split.end(t); ++b) {
      float most = 0, taint = 0;
      for (int64_t e = 64 * b; e < std::min(size, 64 * b + 64); ++e) {
        const int64_t row = e / depth, step = e % depth;
        const float x = element(view, m.transposed ? step * m.ld + row : row * m.ld + step);
        most = std::max(most, std::fabs(x));
        taint += x * 0.0f;
      }
      to[b] = most + taint;
    }
  });
}

// Scales that are given in row-major order, of rows [row, row + count) at a step.
RANKONE_INLINE void gatherScales(const Panels& p, const float* given, int64_t row, int count, int64_t step, float* to) {
  for (int i = 0; i < count; ++i) {
    const int64_t r = row + i;
    to[i] = given[p.format == PanelFormat::Nf4 || p.nf4Values ? (r * p.depth + step) / 64
                  : p.block                                   ? r * p.blocks() + step / p.block
                                                              : r];
  }
  for (int i = count; i < p.width; ++i) to[i] = 0;
}

void codesOfHalves(const Panels& p, const float* x, uint32_t* codes) {
  for (int64_t i = 0; i < kChunk * p.width; i += kLanes) {
    const Vec v = load(x + i);
    storeWords(codes + i, extend(p.format == PanelFormat::BF16 ? BF16::narrow(v) : F16::narrow(v)));
  }
}

// The values that Nf4's codes stand for, as words. `scales`: one for every row.
RANKONE_INLINE void valuesOfCodes(uint32_t* codes, const float* scales, int width) {
  for (int i = 0; i < width; ++i) {
    const float value = kNf4Values[codes[i] & 15] * scales[i];
    std::memcpy(codes + i, &value, sizeof value);
  }
}

// Codes of a chunk of low-bit elements [kChunk, width] and its scales. `given`: the scales in row-major order, or, of
// Int8, those of the panel's rows.
void roundChunk(const Panels& p, const float* x, const float* given, int64_t row, int count, int64_t step,
                uint32_t* codes, float* scales) {
  const PanelFormat format = p.nf4Values ? PanelFormat::Nf4 : p.format;
  const int64_t block = p.nf4Values ? 1 : p.block ? p.block : kChunk;
  for (int64_t k = 0; k < kChunk; k += block) {
    float own[2 * kLanes];
    const bool exists = step + k < p.depth;
    float* at = p.block && exists ? scales + (step + k) / p.block * p.width : own;
    if (format == PanelFormat::Int8) {
      std::memcpy(own, given, static_cast<size_t>(p.width) * sizeof(float));
    } else if (given) {
      if (exists)
        gatherScales(p, given, row, count, step + k, at);
      else
        std::memset(at, 0, static_cast<size_t>(p.width) * sizeof(float));
    } else {
      for (int i = 0; i < p.width; i += kLanes) {
        Largest largest;
        for (int64_t s = k; s < k + block; ++s) largest.add(load(x + s * p.width + i));
        store(at + i, format == PanelFormat::Q4   ? largest.signedValue() / -8.0f
                      : format == PanelFormat::Q8 ? largest.magnitude() / 127.0f
                                                  : largest.magnitude());
      }
    }
    for (int i = 0; i < p.width; i += kLanes) {
      const Vec scale = load(at + i);
      for (int64_t s = k; s < k + block; ++s)
        storeWords(codes + s * p.width + i, nearestCode(format, load(x + s * p.width + i), scale));
    }
    if (p.nf4Values) valuesOfCodes(codes + k * p.width, at, p.width);
  }
}

template <class D>
void packDensePanel(const DenseMatrix& m, const float* given, const Panels& p, int64_t panel, uint32_t* words,
                    float* scales) {
  alignas(64) float x[kChunk * 2 * kLanes];
  alignas(64) uint32_t codes[kChunk * 2 * kLanes];
  const int64_t row = panel * p.width;
  const int count = static_cast<int>(std::min<int64_t>(p.width, p.rows - row)), steps = panelSteps(p.format);
  const auto fetch = [&](int64_t k) { fetchChunk<D>(m, row, count, k, std::min(kChunk, p.depth - k), p.width, x); };
  if (p.format == PanelFormat::Int8) {
    Largest largest[2];
    for (int64_t k = 0; k < p.depth; k += kChunk) {
      fetch(k);
      for (int64_t s = 0; s < kChunk; ++s)
        for (int i = 0; i < p.width; i += kLanes) largest[i / kLanes].add(load(x + s * p.width + i));
    }
    for (int i = 0; i < p.width; i += kLanes) store(scales + i, largest[i / kLanes].magnitude() / 127.0f);
    given = scales;
  }
  for (int64_t k = 0; k < p.depth; k += kChunk) {
    const int64_t units = std::min(kChunk / steps, p.units() - k / steps);
    uint32_t* to = words + k / steps * p.width;
    fetch(k);
    if (p.format == PanelFormat::F32 && !p.nf4Values) {
      std::memcpy(to, x, static_cast<size_t>(units * p.width) * sizeof(uint32_t));
      continue;
    }
    if (p.format == PanelFormat::BF16 || p.format == PanelFormat::F16)
      codesOfHalves(p, x, codes);
    else
      roundChunk(p, x, given, row, count, k, codes, scales);
    packWords(codes, steps, units, p.width, to);
  }
}

// pack(panel, its words, its scales) for all panels; what lies between panels becomes 0.
template <class Pack>
void packAll(const Panels& p, uint32_t* words, float* scales, const CancelFlag* cancel, Pack&& pack) {
  const Split split = splitWork(p.count(), 8 * p.width * p.depth);
  parallelFor(split.tasks, cancel, [&](int64_t t) {
    for (int64_t i = split.begin(t); i < split.end(t); ++i) {
      uint32_t* to = words + i * p.stride();
      std::memset(to + p.units() * p.width, 0,
                  static_cast<size_t>(p.stride() - p.units() * p.width) * sizeof(uint32_t));
      pack(i, to, scales ? scales + i * p.blocks() * p.width : nullptr);
    }
  });
}

void packCodesPanel(const uint8_t* from, const float* given, const Panels& p, int64_t panel, uint32_t* words,
                    float* scales) {
  alignas(64) uint32_t codes[kChunk * 2 * kLanes];
  const PanelFormat format = p.nf4Values ? PanelFormat::Nf4 : p.format;
  const uint32_t none = format == PanelFormat::Nf4 ? 7 : format == PanelFormat::Q4 ? 8 : 0;
  const uint32_t mask = panelSteps(format) == 8 ? 15 : 255;
  const int64_t row = panel * p.width;
  const int count = static_cast<int>(std::min<int64_t>(p.width, p.rows - row)), steps = panelSteps(p.format);
  for (int64_t k = 0; k < p.depth; k += kChunk) {
    const int64_t here = std::min(kChunk, p.depth - k);
    if (count < p.width || here < kChunk)
      for (int64_t i = 0; i < kChunk * p.width; ++i) codes[i] = none;
    for (int i = 0; i < count; ++i) {
      const uint8_t* line = from + (row + i) * p.depth + k;
      for (int64_t s = 0; s < here; ++s) codes[s * p.width + i] = line[s] & mask;
    }
    float own[2 * kLanes];
    for (int64_t s = 0; p.nf4Values && s < here; ++s) {
      gatherScales(p, given, row, count, k + s, own);
      valuesOfCodes(codes + s * p.width, own, p.width);
    }
    packWords(codes, steps, std::min(kChunk / steps, p.units() - k / steps), p.width, words + k / steps * p.width);
  }
  for (int64_t b = 0; b < p.blocks(); ++b) gatherScales(p, given, row, count, b * p.block, scales + b * p.width);
}

}  // namespace

int panelLanes() { return 2 * kLanes; }

void packDense(const void* data, DType dtype, int64_t ld, bool transposed, const Panels& to, uint32_t* words,
               float* scales, const CancelFlag* cancel) {
  const DenseMatrix m{data, dtype, ld, transposed};
  const bool acrossRows = to.nf4Values || (to.format == PanelFormat::Nf4 && to.block != 64);
  const int64_t magnitudes = acrossRows ? (to.rows * to.depth + 63) / 64 : 0;
  Scratch scratch(magnitudes);
  float* given = magnitudes ? scratch.take(magnitudes) : nullptr;
  if (given) blockMagnitudes(m, to.rows, to.depth, given, cancel);
  packAll(to, words, scales, cancel, [&](int64_t panel, uint32_t* w, float* s) {
    withDType(dtype, [&](auto d) { packDensePanel<decltype(d)>(m, given, to, panel, w, s); });
  });
}

void packCodes(const uint8_t* codes, const float* scaleOf, const Panels& to, uint32_t* words, float* scales,
               const CancelFlag* cancel) {
  packAll(to, words, scales, cancel,
          [&](int64_t panel, uint32_t* w, float* s) { packCodesPanel(codes, scaleOf, to, panel, w, s); });
}

void unpackRow(const Panels& from, int64_t row, float* to) {
  const int steps = panelSteps(from.format);
  const uint32_t* words = from.panel(row / from.width) + row % from.width;
  const float* scales = from.scales ? from.panelScales(row / from.width) + row % from.width : nullptr;
  for (int64_t k = 0; k < from.depth; ++k) {
    const uint32_t code = words[k / steps * from.width] >> codeShift(steps, static_cast<int>(k % steps));
    switch (from.format) {
      case PanelFormat::F32: std::memcpy(to + k, &code, sizeof code); break;
      case PanelFormat::BF16: to[k] = BF16::widen(HVec{static_cast<uint16_t>(code)})[0]; break;
      case PanelFormat::F16: to[k] = F16::widen(HVec{static_cast<uint16_t>(code)})[0]; break;
      case PanelFormat::Int8: to[k] = static_cast<float>(static_cast<int8_t>(code)) * scales[0]; break;
      case PanelFormat::Q8:
        to[k] = static_cast<float>(static_cast<int8_t>(code)) * scales[k / from.block * from.width];
        break;
      case PanelFormat::Nf4: to[k] = kNf4Values[code & 15] * scales[k / from.block * from.width]; break;
      case PanelFormat::Q4:
        to[k] = static_cast<float>(static_cast<int>(code & 15) - 8) * scales[k / from.block * from.width];
        break;
    }
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
