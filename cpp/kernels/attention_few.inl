// Attention of a few rows, such as a token of a decode: keys and values are read where they stand, once for all rows of
// a group, and the time is that of the reading. Part of attention.inl.
#include "kernels/attention_panels.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kFewKeys = 64;  // scores at a time
constexpr int kFewRows = static_cast<int>(kAttentionFewRows);
constexpr int kDots = 4;                           // keys side by side
constexpr int kRowTile = 4;                        // rows side by side
constexpr int kColumnVecs = kLanes == 16 ? 4 : 2;  // of values side by side

// What stands kFewKeys rows further on, which is the next to be read but at the end of a run, on its way into L2.
RANKONE_INLINE void fetchNext(const void* row, int64_t bytesOfRow, int64_t lines) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(row) + static_cast<uintptr_t>(kFewKeys * bytesOfRow);
  for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(reinterpret_cast<const void*>(at + i * 64), 0, 2);
}

// s[r * kFewKeys + i] = q_r . k_i for n keys `ld` elements apart; q is [rows, padded(K)].
template <class D, int kRows>
__attribute__((noinline)) void dots(const typename D::Element* k, int64_t ld, int64_t n, int64_t K, const float* q,
                                    float* s) {
  constexpr int64_t kSize = sizeof(typename D::Element);
  const int64_t whole = K / kLanes * kLanes, ldQ = padded(K);
  const int rest = static_cast<int>(K - whole);
  for (int64_t i = 0; i < n; i += kDots) {
    const typename D::Element* row[kDots];  // the last one again where there are no more
    for (int j = 0; j < kDots; ++j) row[j] = k + std::min(i + j, n - 1) * ld;
    Vec acc[kRows][kDots];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < kDots; ++j) acc[r][j] = zero();
    const auto step = [&](int64_t c, auto&& get) __attribute__((always_inline)) {
      Vec key[kDots];
#pragma GCC unroll 4
      for (int j = 0; j < kDots; ++j) key[j] = get(row[j] + c);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const Vec query = load(q + r * ldQ + c);
#pragma GCC unroll 4
        for (int j = 0; j < kDots; ++j) acc[r][j] = fma(query, key[j], acc[r][j]);
      }
    };
    for (const auto* k : row) fetchNext(k, ld * kSize, (K * kSize + 63) / 64);
    for (int64_t c = 0; c < whole; c += kLanes)
      step(
          c, [](const typename D::Element* p) __attribute__((always_inline)) { return D::load(p); });
    if (rest)
      step(
          whole, [rest](const typename D::Element* p) __attribute__((always_inline)) { return D::loadPart(p, rest); });
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sums(acc[r][0], acc[r][1], acc[r][2], acc[r][3], s + r * kFewKeys + i);
  }
}

// sums [rows, padded(V)]: columns from c on become shrink_r sums + sum_i w_ri v_i, for n values `ld` elements apart.
template <class D, int kRows, int kVecs>
__attribute__((noinline)) void blend(const typename D::Element* v, int64_t ld, int64_t n, const float* w,
                                     const float* shrink, float* sums, int64_t ldSums, int lanes) {
  Vec acc[kRows][kVecs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) acc[r][j] = load(sums + r * ldSums + j * kLanes) * shrink[r];
  constexpr int64_t kSize = sizeof(typename D::Element);
  for (int64_t i = 0; i < n; ++i, v += ld) {
    fetchNext(v, ld * kSize, (kVecs * kLanes * kSize + 63) / 64);
    Vec value[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) value[j] = lanes == kLanes ? D::load(v + j * kLanes) : D::loadPart(v, lanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vec x = splat(w[r * kFewKeys + i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[r][j] = fma(x, value[j], acc[r][j]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) store(sums + r * ldSums + j * kLanes, acc[r][j]);
}

// f(number of rows as a constant, first row) for tiles of rows [begin, end).
template <class F>
RANKONE_INLINE void forRowTiles(int64_t begin, int64_t end, F&& f) {
  while (begin < end) {
    const int64_t left = end - begin;
    if (left >= kRowTile) {
      f(std::integral_constant<int, kRowTile>{}, begin);
      begin += kRowTile;
    } else if (left >= 2) {
      f(std::integral_constant<int, 2>{}, begin);
      begin += 2;
    } else {
      f(std::integral_constant<int, 1>{}, begin);
      begin += 1;
    }
  }
}

template <class D>
class FewTask {
 public:
  using Element = typename D::Element;

  // Results go to `sums` [rows, padded(V)], top and weight [rows].
  FewTask(const AttentionArgs& p, const AttentionItem& item, float* sums, float* top, float* weight)
      : p_(p),
        item_(item),
        rows_(queryRows(p, *item.sequence, item.head)),
        ldK_(padded(p.K)),
        ldV_(padded(p.V)),
        sums_(sums),
        top_(top),
        weight_(weight),
        scratch_(kFewRows * ldK_ + alignFloats(kFewRows * kFewKeys)) {
    queries_ = scratch_.take(kFewRows * ldK_);
    scores_ = scratch_.take(kFewRows * kFewKeys);
    const float scale = p.softcap > 0 ? p.scale / p.softcap : p.scale * kLog2e;
    for (int64_t r = 0; r < item.rows; ++r) {
      float* q = queries_ + r * ldK_;
      widenRow(p.q, p.dtype, rows_.at(item.row + r), p.K, q);
      for (int64_t i = 0; i < ldK_; i += kLanes) store(q + i, load(q + i) * scale);
      top_[r] = kMasked;
      weight_[r] = 0;
    }
    std::memset(sums_, 0, static_cast<size_t>(item.rows * ldV_) * sizeof(float));
  }

  bool run() {
    const AttentionSequence& s = *item_.sequence;
    const int64_t group = rows_.group, first = item_.row / group, last = (item_.row + item_.rows - 1) / group;
    const VisibleKeys all = visibleKeys(p_.mask, s.offset() + first, s.offset() + last, s.keys());
    const KeyRows keys{p_.k, p_.cache.k, p_.K}, values{p_.v, p_.cache.v, p_.V};
    for (const KeyRange& range : all.range)
      for (int64_t at = std::max(range.begin, item_.keys.begin); at < std::min(range.end, item_.keys.end);) {
        if (isCancelled(p_)) return false;
        const int64_t end = std::min(std::min(range.end, item_.keys.end), at + kFewKeys);
        const KeyRange block{at, end};
        at = end;
        if (seesAll(p_.mask, s.offset() + first, s.offset() + last, block)) {
          attend(0, item_.rows, block, keys, values);
          continue;
        }
        // Rows of one token see the same.
        for (int64_t t = first; t <= last; ++t)
          for (const KeyRange& own : visibleKeys(p_.mask, s.offset() + t, s.offset() + t, s.keys()).range)
            attend(t * group - item_.row, (t + 1) * group - item_.row,
                   {std::max(own.begin, block.begin), std::min(own.end, block.end)}, keys, values);
      }
    return true;
  }

 private:
  // Rows [begin, end) and keys that each of them sees.
  void attend(int64_t begin, int64_t end, KeyRange block, const KeyRows& keys, const KeyRows& values) {
    begin = std::max<int64_t>(begin, 0);
    end = std::min(end, item_.rows);
    if (block.count() == 0 || begin >= end) return;
    const AttentionSequence& s = *item_.sequence;
    keys.forRuns(p_, s, item_.head, block, [&](const void* k, int64_t row, int64_t step, int64_t at, int64_t count) {
      const void* v = nullptr;
      values.forRuns(p_, s, item_.head, {at, at + count},
                     [&](const void* tensor, int64_t, int64_t, int64_t, int64_t) { v = tensor; });
      const auto* key = static_cast<const Element*>(k) + row * p_.K;
      const auto* value = static_cast<const Element*>(v) + row * p_.V;
      forRowTiles(
          begin, end, [&](auto rows, int64_t r) __attribute__((always_inline)) {
            constexpr int kRows = decltype(rows)::value;
            float* w = scores_ + r * kFewKeys;
            dots<D, kRows>(key, step * p_.K, count, p_.K, queries_ + r * ldK_, w);
            float shrink[kRows];
            for (int i = 0; i < kRows; ++i) shrink[i] = weigh(r + i, w + i * kFewKeys, static_cast<int>(count));
            add<kRows>(value, step * p_.V, count, w, shrink, sums_ + r * ldV_);
          });
    });
  }

  template <int kRows>
  void add(const Element* v, int64_t ld, int64_t count, const float* w, const float* shrink, float* sums) {
    int64_t c = 0;
    for (; c + kColumnVecs * kLanes <= p_.V; c += kColumnVecs * kLanes)
      blend<D, kRows, kColumnVecs>(v + c, ld, count, w, shrink, sums + c, ldV_, kLanes);
    for (; c < p_.V; c += kLanes) blend<D, kRows, 1>(v + c, ld, count, w, shrink, sums + c, ldV_, lanesLeft(c, p_.V));
  }

  // Scores become weights 2^(score - top); returns what the sums so far are to be multiplied by.
  float weigh(int64_t r, float* s, int count) {
    for (int i = count; i < roundUp(count, kLanes); ++i) s[i] = kMasked;
    if (p_.softcap > 0) {
      const Vec cap = splat(p_.softcap * kLog2e);
      for (int i = 0; i < count; i += kLanes) {
        const int n = lanesLeft(i, count);
        put(s + i, cap * tanhOf(get(s + i, n)), n);
      }
    }
    Vec most = splat(kMasked);
    for (int i = 0; i < count; i += kLanes) most = larger(load(s + i), most);
    const float before = top_[r], now = std::max(before, largest(most)), base = now == kMasked ? 0 : now;
    Vec total = zero();
    for (int i = 0; i < count; i += kLanes) {
      const Vec w = exp2(load(s + i) - base);
      store(s + i, w);
      total += w;
    }
    const float less = exp2(splat(before - base))[0];
    top_[r] = now;
    weight_[r] = weight_[r] * less + sum(total);
    return less;
  }

  const AttentionArgs& p_;
  const AttentionItem& item_;
  const QueryRows rows_;
  const int64_t ldK_, ldV_;
  float *sums_, *top_, *weight_;
  Scratch scratch_;
  float *queries_, *scores_;
};

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
