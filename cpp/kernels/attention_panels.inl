// Attention of many rows: panels of queries over blocks of keys, all as small products. Part of attention.inl.
#include "kernels/attention_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// Rows of queries so far: sums of values [kQueries, padded(V)] relative to 2^top, and of weights.
struct Panel {
  float *queries, *sums, *top, *weight;  // queries [K, kQueries], scaled
};

// Of a task: what all panels read in turn, and the panels.
class PanelTask {
 public:
  PanelTask(const AttentionArgs& p, const AttentionItem& item)
      : p_(p),
        item_(item),
        rows_(queryRows(p, *item.sequence, item.head)),
        ldK_(padded(p.K)),
        ldV_(padded(p.V)),
        panels_((item.rows + kQueries - 1) / kQueries),
        scratch_(alignFloats(kKeys * ldK_) + alignFloats(kKeys * p.K) + alignFloats(kKeys * ldV_) +
                 alignFloats(kKeys * kQueries) + panels_ * panelFloats()) {
    key_ = scratch_.take(kKeys * ldK_);
    keyT_ = scratch_.take(kKeys * p.K);
    value_ = scratch_.take(kKeys * ldV_);
    scores_ = scratch_.take(kKeys * kQueries);
    panelMemory_ = scratch_.take(panels_ * panelFloats());
    for (int64_t i = 0; i < panels_; ++i) begin(i);
  }

  // False where the call was aborted.
  bool run() {
    const int64_t low = rows_.position(item_.row), high = rows_.position(item_.row + item_.rows - 1);
    const VisibleKeys seen = visibleKeys(p_.mask, low, high, item_.sequence->keys());
    int64_t done = 0;
    for (const KeyRange& r : seen.range) {
      const int64_t begin = std::max(std::max(r.begin, item_.keys.begin), done), end = std::min(r.end, item_.keys.end);
      if (begin >= end) continue;
      for (int64_t at = begin / kKeys * kKeys; at < end; at += kKeys) {
        if (isCancelled(p_)) return false;
        block({at, std::min(at + kKeys, item_.keys.end)});
        done = at + kKeys;
      }
    }
    return true;
  }

  int64_t panels() const { return panels_; }
  int64_t rowsOf(int64_t i) const { return std::min<int64_t>(kQueries, item_.rows - i * kQueries); }
  Panel panel(int64_t i) const {
    float* m = panelMemory_ + i * panelFloats();
    float *sums = m + alignFloats(p_.K * kQueries), *top = sums + kQueries * ldV_;
    return {m, sums, top, top + kQueries};
  }

 private:
  int64_t panelFloats() const { return alignFloats(p_.K * kQueries) + kQueries * ldV_ + alignFloats(2 * kQueries); }

  void begin(int64_t i) {
    const Panel panel = this->panel(i);
    const float scale = p_.softcap > 0 ? p_.scale / p_.softcap : p_.scale * kLog2e;
    Scratch scratch(kQueries * ldK_);
    float* row = scratch.take(kQueries * ldK_);
    const int64_t first = item_.row + i * kQueries, count = rowsOf(i);
    for (int64_t r = 0; r < count; ++r) {
      fetchRow(p_.q, p_.dtype, rows_.at(std::min(first + r + kRowsAhead, item_.row + item_.rows - 1)), p_.K);
      widenRow(p_.q, p_.dtype, rows_.at(first + r), p_.K, row + r * ldK_);
    }
    std::memset(row + count * ldK_, 0, static_cast<size_t>((kQueries - count) * ldK_) * sizeof(float));
    transposed(row, ldK_, kQueries, p_.K, panel.queries, kQueries, ScaledBy{scale});
    std::memset(panel.sums, 0, static_cast<size_t>(kQueries * ldV_) * sizeof(float));
    for (int r = 0; r < kQueries; ++r) {
      panel.top[r] = kMasked;
      panel.weight[r] = 0;
    }
  }

  void block(KeyRange keys) {
    const AttentionSequence& s = *item_.sequence;
    KeyRows{p_.k, p_.cache.k, p_.K}.read(p_, s, item_.head, keys, key_);
    transposed(key_, ldK_, kKeys, p_.K, keyT_, kKeys);
    KeyRows{p_.v, p_.cache.v, p_.V}.read(p_, s, item_.head, keys, value_);
    const bool finite = isFinite(value_, kKeys * ldV_);
    for (int64_t i = 0; i < panels_; ++i) {
      const int64_t row = item_.row + i * kQueries, count = rowsOf(i);
      const int64_t low = rows_.position(row), high = rows_.position(row + count - 1);
      const KeyRange used = usedKeys(p_.mask, low, high, keys);
      if (used.count() == 0) continue;
      const bool whole = used.end <= keys.count() && count == kQueries && seesAll(p_.mask, low, high, keys);
      attend(panel(i), row, count, keys, used, !whole, finite);
    }
  }

  void attend(const Panel& panel, int64_t row, int64_t count, KeyRange keys, KeyRange used, bool masked, bool finite) {
    float* s = scores_ + used.begin * kQueries;
    const int64_t n = used.count(), vecs = count > kLanes ? kQueryVecs : 1;
    product<1>(n, vecs * kLanes, {keyT_ + used.begin, kKeys, p_.K}, panel.queries, kQueries, s, kQueries, false);
    if (p_.softcap > 0) {
      const Vec cap = splat(p_.softcap * kLog2e);
      for (int64_t i = 0; i < n * kQueries; i += kLanes)
        if (i % kQueries < vecs * kLanes) store(s + i, cap * tanhOf(load(s + i)));
    }
    if (masked) LaneMask(p_.mask, rows_, row, count, keys).apply(scores_, used.begin, used.end);
    float shrink[kQueries];
    bool shrinks = false;
    for (int64_t j = 0; j < vecs * kLanes; j += kLanes) shrinks |= weigh(panel, s + j, n, j, shrink + j);
    if (shrinks) rescale(panel.sums, shrink, count);
    if (finite || !masked)
      product<1>(count, ldV_, {s, kQueries, n}, value_ + used.begin * ldV_, ldV_, panel.sums, ldV_, true);
    else
      addSeen(s, kQueries, 1, count, n, value_ + used.begin * ldV_, ldV_, panel.sums);
  }

  // Scores of one vector of rows become weights 2^(score - top). Whether what stood there before shrinks.
  static bool weigh(const Panel& panel, float* s, int64_t n, int64_t lane, float* shrink) {
    const Vec before = load(panel.top + lane);
    Vec top[4] = {before, before, before, before};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) top[u] = larger(load(s + (i + u) * kQueries), top[u]);
    for (; i < n; ++i) top[0] = larger(load(s + i * kQueries), top[0]);
    const Vec now = larger(larger(top[0], top[1]), larger(top[2], top[3]));
    const Vec base = select(now == kMasked, zero(), now);
    Vec total[2] = {zero(), zero()};
    for (i = 0; i + 2 <= n; i += 2)
#pragma GCC unroll 2
      for (int u = 0; u < 2; ++u) {
        const Vec w = exp2(load(s + (i + u) * kQueries) - base);
        store(s + (i + u) * kQueries, w);
        total[u] += w;
      }
    const Vec less = exp2(before - base);
    store(shrink, less);
    store(panel.top + lane, now);
    store(panel.weight + lane, fma(load(panel.weight + lane), less, total[0] + total[1]));
    for (int l = 0; l < kLanes; ++l)
      if (shrink[l] != 1.0f) return true;
    return false;
  }

  void rescale(float* sums, const float* shrink, int64_t count) const {
    for (int64_t r = 0; r < count; ++r) {
      const Vec x = splat(shrink[r]);
      for (int64_t i = 0; i < ldV_; i += kLanes) store(sums + r * ldV_ + i, load(sums + r * ldV_ + i) * x);
    }
  }

  const AttentionArgs& p_;
  const AttentionItem& item_;
  const QueryRows rows_;
  const int64_t ldK_, ldV_, panels_;
  Scratch scratch_;
  float *key_, *keyT_, *value_, *scores_, *panelMemory_;
};

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
