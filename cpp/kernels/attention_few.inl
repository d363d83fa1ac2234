// Attention of a few rows, such as a token of a decode: keys and values are read where they stand, once for all rows of
// a group, and the time is that of the reading. So they are read in the order of memory as far as scores of kFewKeys
// keys at a time allow: of a tensor some tokens of all of the item's heads, then the next ones. Part of attention.inl.
#include "kernels/attention_panels.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kFewKeys = 64;                   // scores at a time
constexpr int kDots = 4;                           // keys side by side
constexpr int kRowTile = 4;                        // rows side by side
constexpr int64_t kStretch = 4;                    // values of all heads before the next ones, times rows
constexpr int64_t kAhead = 8;                      // rows of all heads, from what is read to what is fetched
constexpr int kColumnVecs = kLanes == 16 ? 4 : 2;  // of values side by side

// On its way into L2: what is read some rows later, `bytes` of it from `ahead` bytes behind each of these rows on.
template <int kRows, class Element>
RANKONE_INLINE void fetchNext(const Element* const (&rows)[kRows], int64_t ahead, int64_t bytes) {
  for (int64_t at = ahead; at < ahead + bytes; at += 64)
#pragma GCC unroll 4
    for (int j = 0; j < kRows; ++j)
      __builtin_prefetch(
          reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(rows[j]) + static_cast<uintptr_t>(at)), 0, 2);
}

// Keys or values of heads side by side, rows of them `ld` elements apart; those `ahead` rows further on are fetched.
template <class D>
struct HeadRows {
  const typename D::Element* first;
  int64_t width, ld, count, heads, ahead;
  int64_t fetchBytes() const { return ahead * ld * static_cast<int64_t>(sizeof(*first)); }
};

// s[r * kFewKeys + i] = q_r . k_i for q [rows, padded(K)], and for every head `rows` rows further on: all heads of some
// keys, then those of the next.
template <class D, int kRows>
__attribute__((noinline)) void dots(const HeadRows<D>& keys, const float* q, int64_t rows, float* s) {
  constexpr int64_t kSize = sizeof(typename D::Element);
  const int64_t K = keys.width, whole = K / kLanes * kLanes, ldQ = padded(K), fetch = keys.fetchBytes();
  const int rest = static_cast<int>(K - whole);
  for (int64_t i = 0; i < keys.count; i += kDots) {
    const typename D::Element* row[kDots];  // the last one again where there are no more
    row[0] = keys.first + i * keys.ld;
#pragma GCC unroll 4
    for (int j = 1; j < kDots; ++j) row[j] = row[j - 1] + (i + j < keys.count ? keys.ld : 0);
    for (int64_t h = 0; h < keys.heads; ++h) {
      const float* query = q + h * rows * ldQ;
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
          const Vec x = load(query + r * ldQ + c);
#pragma GCC unroll 4
          for (int j = 0; j < kDots; ++j) acc[r][j] = fma(x, key[j], acc[r][j]);
        }
      };
      fetchNext(row, fetch, K * kSize);
      for (int64_t c = 0; c < whole; c += kLanes)
        step(
            c, [](const typename D::Element* p) __attribute__((always_inline)) { return D::load(p); });
      if (rest)
        step(
            whole, [rest](const typename D::Element* p)
                       __attribute__((always_inline)) { return D::loadPart(p, rest); });
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
        sums(acc[r][0], acc[r][1], acc[r][2], acc[r][3], s + (h * rows + r) * kFewKeys + i);
#pragma GCC unroll 4
      for (int j = 0; j < kDots; ++j) row[j] += K;
    }
  }
}

// sums [rows, padded(V)]: columns become shrink_r sums + sum_i w_ri v_i.
template <class D, int kRows, int kVecs>
__attribute__((noinline)) void blend(const HeadRows<D>& values, const float* w, const float* shrink, float* sums,
                                     int64_t ldSums, int lanes) {
  Vec acc[kRows][kVecs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) acc[r][j] = load(sums + r * ldSums + j * kLanes) * shrink[r];
  constexpr int64_t kSize = sizeof(typename D::Element);
  const int64_t fetch = values.fetchBytes();
  const typename D::Element* v = values.first;
  for (int64_t i = 0; i < values.count; ++i, v += values.ld) {
    fetchNext<1>({v}, fetch, kVecs * kLanes * kSize);
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

  // Results go to `sums` [heads, rows, padded(V)], top and weight [heads, rows].
  FewTask(const AttentionArgs& p, const AttentionItem& item, float* sums, float* top, float* weight)
      : p_(p),
        item_(item),
        group_(p.H / p.HKV),
        ldK_(padded(p.K)),
        ldV_(padded(p.V)),
        sums_(sums),
        top_(top),
        weight_(weight),
        scratch_(alignFloats(item.allRows() * ldK_) + item.allRows() * kFewKeys + alignFloats(item.allRows())) {
    queries_ = scratch_.take(item.allRows() * ldK_);
    scores_ = scratch_.take(item.allRows() * kFewKeys);
    shrink_ = scratch_.take(item.allRows());
    const float scale = p.softcap > 0 ? p.scale / p.softcap : p.scale * kLog2e;
    for (int64_t i = 0; i < item.allRows(); ++i) {
      float* q = queries_ + i * ldK_;
      const QueryRows rows = queryRows(p, *item.sequence, item.head + i / item.rows);
      widenRow(p.q, p.dtype, rows.at(item.row + i % item.rows), p.K, q);
      for (int64_t c = 0; c < ldK_; c += kLanes) store(q + c, load(q + c) * scale);
      top_[i] = kMasked;
      weight_[i] = 0;
    }
    std::memset(sums_, 0, static_cast<size_t>(item.allRows() * ldV_) * sizeof(float));
  }

  bool run() {
    const AttentionSequence& s = *item_.sequence;
    const int64_t group = group_, first = item_.row / group, last = (item_.row + item_.rows - 1) / group;
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
  // Rows [begin, end) of every head and keys that each of them sees.
  void attend(int64_t begin, int64_t end, KeyRange block, const KeyRows& keys, const KeyRows& values) {
    begin = std::max<int64_t>(begin, 0);
    end = std::min(end, item_.rows);
    if (block.count() == 0 || begin >= end) return;
    const AttentionSequence& s = *item_.sequence;
    keys.forRuns(p_, s, item_.head, block, [&](const void* k, int64_t row, int64_t step, int64_t at, int64_t count) {
      const void* v = nullptr;
      values.forRuns(p_, s, item_.head, {at, at + count},
                     [&](const void* tensor, int64_t, int64_t, int64_t, int64_t) { v = tensor; });
      attendRun(begin, end, static_cast<const Element*>(k) + row * p_.K, static_cast<const Element*>(v) + row * p_.V,
                step, count);
    });
  }

  // The same for `count` keys and values of the first head, `step` rows apart; of the others beside them.
  __attribute__((noinline)) void attendRun(int64_t begin, int64_t end, const Element* key, const Element* value,
                                           int64_t step, int64_t count) {
    const bool one = item_.heads == 1;
    const int64_t ahead = one ? kFewKeys : kAhead, stretch = one ? kFewKeys : kStretch * item_.rows;
    const int64_t valuesAhead = std::max(ahead, stretch);  // of a head by the time that the other heads take
    const HeadRows<D> keys{key, p_.K, step * p_.K, count, item_.heads, ahead};
    forRowTiles(
        begin, end, [&](auto rows, int64_t r) __attribute__((always_inline)) {
          dots<D, decltype(rows)::value>(keys, queries_ + r * ldK_, item_.rows, scores_ + r * kFewKeys);
        });
    for (int64_t h = 0; h < item_.heads; ++h)
      for (int64_t r = h * item_.rows + begin; r < h * item_.rows + end; ++r)
        shrink_[r] = weigh(r, scores_ + r * kFewKeys, static_cast<int>(count));
    for (int64_t i = 0; i < count; i += stretch)
      for (int64_t h = 0; h < item_.heads; ++h) {
        const Element* v = value + (i * step + h) * p_.V;
        const HeadRows<D> values{v, p_.V, step * p_.V, std::min(stretch, count - i), 1, valuesAhead};
        forRowTiles(
            h * item_.rows + begin, h * item_.rows + end, [&](auto rows, int64_t r) __attribute__((always_inline)) {
              add<decltype(rows)::value>(values, scores_ + r * kFewKeys + i, r, i == 0);
            });
      }
  }

  template <int kRows>
  void add(HeadRows<D> values, const float* w, int64_t row, bool shrinks) {
    float shrink[kRows];
    for (int i = 0; i < kRows; ++i) shrink[i] = shrinks ? shrink_[row + i] : 1.0f;
    float* sums = sums_ + row * ldV_;
    int64_t c = 0;
    for (; c + kColumnVecs * kLanes <= p_.V; c += kColumnVecs * kLanes, values.first += kColumnVecs * kLanes)
      blend<D, kRows, kColumnVecs>(values, w, shrink, sums + c, ldV_, kLanes);
    for (; c < p_.V; c += kLanes, values.first += kLanes)
      blend<D, kRows, 1>(values, w, shrink, sums + c, ldV_, lanesLeft(c, p_.V));
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
  const int64_t group_, ldK_, ldV_;
  float *sums_, *top_, *weight_;
  Scratch scratch_;
  float *queries_, *scores_, *shrink_;
};

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
