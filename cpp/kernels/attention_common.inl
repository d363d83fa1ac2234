// What the forward and the backward of attention share: exponentials, masks, rows of tensors as panels of float32. A
// panel is kQueries rows of queries that share a head of keys, one to a lane: scores stand as [keys, kQueries], so that
// softmax needs no sum over lanes. Part of attention.inl and attention_backward.inl.
#include "kernels/elementwise.inl"
#include "kernels/recurrence_products.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int kQueryVecs = 2, kQueries = kQueryVecs * kLanes;
constexpr int64_t kKeys = kAttentionKeys;
constexpr float kLog2e = 1.44269504f, kMasked = -std::numeric_limits<float>::infinity();
constexpr double kLn2 = 0.69314718055994531;

RANKONE_INLINE Vec larger(Vec a, Vec b) {  // b where either is NaN
#if RANKONE_LEVEL == 2
  return _mm512_max_ps(a, b);
#elif RANKONE_LEVEL == 1
  return _mm256_max_ps(a, b);
#else
  return select(a > b, a, b);
#endif
}

// 2^x for x <= 128 or so: relative error 2e-7, exactly 0 from -150 down, NaN stays NaN.
RANKONE_INLINE Vec exp2(Vec x) {
  x = atMost(atLeast(x, splat(-150.0f)), splat(128.0f));
#if RANKONE_LEVEL == 2
  const Vec n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Vec n = roundToInteger(x);
#endif
  const Vec r = x - n;  // exact
  Vec p = splat(1.535336226e-4f);
  for (float c : {1.339887484e-3f, 9.618437360e-3f, 5.550332470e-2f, 2.402264791e-1f, 6.931472029e-1f})
    p = fma(p, r, splat(c));
  p = fma(p, r, splat(1.0f));
#if RANKONE_LEVEL == 2
  return _mm512_scalef_ps(p, n);
#else
  return scaleByPowerOfTwo(p, n);
#endif
}

// Relative error 3e-7.
RANKONE_INLINE Vec tanhOf(Vec x) {
  const Vec y = atMost(abs(x), splat(20.0f)) * 2.0f;  // tanh 20 is 1
  const Vec e = select(y <= 0.5f, expm1Small(atMost(y, splat(0.5f))), exp(y) - 1.0f);
  const IVec sign = (IVec)x & static_cast<int32_t>(0x80000000u);
  return select(x == x, (Vec)((IVec)(e / (e + 2.0f)) | sign), x);
}

inline int64_t padded(int64_t n) { return roundUp(n, kLanes); }

// Rows of a tensor [tokens, heads, width] that belong to one head of keys: row r is token r / group.
struct QueryRows {
  const AttentionSequence* sequence;
  int64_t heads, first, group;  // first: of the group's heads
  int64_t at(int64_t r) const { return (sequence->q + r / group) * heads + first + r % group; }
  int64_t position(int64_t r) const { return sequence->offset() + r / group; }
};

inline QueryRows queryRows(const AttentionArgs& p, const AttentionSequence& s, int64_t head) {
  const int64_t group = p.H / p.HKV;
  return {&s, p.H, head * group, group};
}

// One row of width `n` as float32, zeros up to a whole vector behind it.
inline void widenRow(const void* tensor, DType dtype, int64_t row, int64_t n, float* to) {
  widen(tensor, dtype, row * n, n, to);
  for (int64_t i = n; i < padded(n); ++i) to[i] = 0;
}

// A row of a tensor [tokens, heads, width] on its way: rows of other heads stand between those of a task, too far for
// the hardware to see a pattern.
constexpr int64_t kRowsAhead = 8;
RANKONE_INLINE void fetchRow(const void* tensor, DType dtype, int64_t row, int64_t n) {
  const int64_t bytes = n * static_cast<int64_t>(dtypeSize(dtype));
  const char* at = static_cast<const char*>(tensor) + row * bytes;
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(at + line);
}

inline bool isFinite(const float* x, int64_t n) {
  Vec taint = zero();
  for (int64_t i = 0; i < n; i += kLanes) taint += load(x + i) * 0.0f;
  return sum(taint) == 0.0f;
}

// The keys or values at `count` positions from `begin` on as [kKeys, padded(width)], zeros behind them.
struct KeyRows {
  const void *tensor, *cached;
  int64_t width;

  template <class F>
  void forRuns(const AttentionArgs& p, const AttentionSequence& s, int64_t head, KeyRange keys, F&& f) const {
    for (int64_t at = keys.begin; at < keys.end;) {
      if (at < s.cached) {
        const int64_t count = std::min(std::min(keys.end, s.cached) - at, p.cache.runAt(at));
        f(cached, (s.slot * p.HKV + head) * p.cache.capacity + p.cache.rowOf(at), int64_t{1}, at, count);
        at += count;
      } else {
        const int64_t count = keys.end - at;
        f(tensor, (s.k + at - s.cached) * p.HKV + head, p.HKV, at, count);
        at += count;
      }
    }
  }

  void read(const AttentionArgs& p, const AttentionSequence& s, int64_t head, KeyRange keys, float* to) const {
    withDType(p.keyDType, [&](auto d) {
      using D = decltype(d);
      using Element = typename D::Element;
      const int64_t ld = padded(width), whole = width / kLanes * kLanes, lines = width * int64_t{sizeof(Element)};
      forRuns(p, s, head, keys, [&](const void* tensor, int64_t row, int64_t step, int64_t at, int64_t count) {
        const auto* from = static_cast<const Element*>(tensor) + row * width;
        float* out = to + (at - keys.begin) * ld;
        for (int64_t i = 0; i < count; ++i, from += step * width, out += ld) {
          // Rows of other heads stand in between: too far for the hardware to see a pattern.
          const auto* ahead = reinterpret_cast<const char*>(from + (i + kAhead < count ? kAhead : 0) * step * width);
          for (int64_t line = 0; line < lines; line += 64) __builtin_prefetch(ahead + line);
          for (int64_t c = 0; c < whole; c += kLanes) store(out + c, D::load(from + c));
          if (whole < width) store(out + whole, D::loadPart(from + whole, static_cast<int>(width - whole)));
        }
      });
    });
    const int64_t ld = padded(width);
    for (int64_t i = keys.count() * ld; i < kKeys * ld; i += kLanes) store(to + i, zero());
  }

 private:
  static constexpr int64_t kAhead = 8;
};

// By lane the keys that the rows of a panel see, counted from the first of a block. Lanes without a row see none.
struct LaneMask {
  float first, least[kQueries], most[kQueries], last[kQueries];
  LaneMask(const AttentionMask& m, const QueryRows& rows, int64_t row, int64_t count, KeyRange keys) {
    const auto relative = [&](int64_t p) {
      return static_cast<float>(std::min(std::max<int64_t>(p - keys.begin, -1), keys.count()));
    };
    first = relative(m.first);
    for (int i = 0; i < kQueries; ++i) {
      const int64_t p = i < count ? rows.position(row + i) : 0;
      last[i] = i < count ? std::min(relative(m.causal ? p : keys.end), relative(keys.end - 1)) : -1.0f;
      least[i] = relative(p - m.left);
      most[i] = relative(p + m.right);
    }
  }
  // s [kKeys, kQueries]: rows [begin, end) of it.
  void apply(float* s, int64_t begin, int64_t end) const {
    for (int j = 0; j < kQueries; j += kLanes) {
      const Vec low = load(least + j), high = load(most + j), bound = load(last + j);
      for (int64_t key = begin; key < end; ++key) {
        const Vec at = splat(static_cast<float>(key));
        const IVec seen = (at <= bound) & ((at < first) | ((at >= low) & (at <= high)));
        float* x = s + key * kQueries + j;
        store(x, select(seen, load(x), splat(kMasked)));
      }
    }
  }
};

// The part of a block of keys that a panel needs, in whole tiles.
inline KeyRange usedKeys(const AttentionMask& m, int64_t low, int64_t high, KeyRange block) {
  const VisibleKeys seen = visibleKeys(m, low, high, block.end);
  int64_t begin = block.end, end = block.begin;
  for (const KeyRange& r : seen.range) {
    const int64_t b = std::max(r.begin, block.begin), e = std::min(r.end, block.end);
    if (b >= e) continue;
    begin = std::min(begin, b);
    end = std::max(end, e);
  }
  if (begin >= end) return {0, 0};
  constexpr int64_t kTile = kTileRows;
  return {(begin - block.begin) / kTile * kTile, roundUp(end - block.begin, kTile)};
}

// c [rows, columns] += a^T b for coefficients a [depth, lda] most of which are 0 where b may have NaN or infinities: a
// product with 0 is left out, for it stands for a key that is not seen.
inline void addSeen(const float* a, int64_t step, int64_t rowStride, int64_t rows, int64_t depth, const float* b,
                    int64_t columns, float* c) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t d = 0; d < depth; ++d) {
      const float x = a[r * rowStride + d * step];
      if (x == 0.0f) continue;
      for (int64_t i = 0; i < columns; i += kLanes)
        store(c + r * columns + i, fma(splat(x), load(b + d * columns + i), load(c + r * columns + i)));
    }
}

// dq of tokens [begin, end) of a sequence from its parts, [T,H,K] each.
inline void joinQueries(const AttentionArgs& p, const AttentionSequence& s, int64_t parts, const float* from,
                        int64_t begin, int64_t end, float* line, void* dq, DType dtype) {
  const int64_t width = p.H * p.K, size = s.T * width;
  for (int64_t t = begin; t < end; ++t) {
    const float* first = from + t * width;
    const float* result = first;
    if (parts > 1) {
      for (int64_t i = 0; i < width; i += kLanes) {
        const int n = lanesLeft(i, width);
        Vec x = get(first + i, n);
        for (int64_t part = 1; part < parts; ++part) x += get(first + part * size + i, n);
        put(line + i, x, n);
      }
      result = line;
    }
    narrow(result, width, dq, dtype, (s.q + t) * width);
  }
}

inline bool isCancelled(const AttentionArgs& p) { return p.cancel && p.cancel->load(std::memory_order_relaxed); }

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
