// Gradients of attention. With weights p = e^(s - lse), made again from the scores s, and the gate applied to dO:
//   dv = p^T dO,  ds = p (dO v^T - d),  d_i = dO_i o_i - dLse_i,  dq = scale ds k,  dk = scale ds^T q
//   dSink = -sum_i e^(sink - lse_i) d_i,  dGate = dO o (1 - sigmoid(gate))
// and ds (1 - tanh^2) where scores are capped. A task owns some keys of a head: it goes over all queries that see them
// and sums dk and dv, in the order of the queries. dq is summed over the keys of a task in its own memory, where a
// sequence has several tasks to a head (their number depends on its shape), and then over the tasks.
//
// Dao et al., "FlashAttention" (2022).
#include "kernels/attention_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

struct BackwardRows {
  const float* lse;  // [tokens of q,H]
  const float* d;    // the same
};

// Queries, their dO and dq stay in the second-level cache while the keys go by; dk and dv of some keys are summed over
// all queries before they are written.
constexpr int64_t kRowFloats = 96 << 10, kKeysAtOnce = 21 * kKeys;

class BackwardTask {
 public:
  BackwardTask(const AttentionBackwardArgs& b, const AttentionBackwardItem& item, const BackwardRows& saved, float* dq)
      : b_(b),
        p_(b.forward),
        item_(item),
        rows_(queryRows(p_, *item.sequence, item.head)),
        saved_(saved),
        dq_(dq),
        ldK_(padded(p_.K)),
        ldV_(padded(p_.V)),
        count_(item.sequence->T * rows_.group),
        rowsAtOnce_(std::clamp<int64_t>(kRowFloats / (3 * ldK_ + 2 * ldV_) / kQueries * kQueries, 2 * kQueries,
                                        roundUp(std::max<int64_t>(count_, 2 * kQueries), kQueries))),
        keysAtOnce_(std::min(kKeysAtOnce, roundUp(item.keys.count(), kKeys))),
        scratch_(alignFloats(kKeys * p_.K) + alignFloats(kKeys * p_.V) + (kKeys + keysAtOnce_) * (ldK_ + ldV_) +
                 rowsAtOnce_ * (2 * ldK_ + ldV_ + 2) + alignFloats(rowsAtOnce_ * p_.K) +
                 alignFloats(rowsAtOnce_ * p_.V) + kQueries * ldK_ + 2 * kKeys * kQueries + 128) {
    keyT_ = scratch_.take(kKeys * p_.K);
    valueT_ = scratch_.take(kKeys * p_.V);
    key_ = scratch_.take(kKeys * ldK_);
    value_ = scratch_.take(kKeys * ldV_);
    dKey_ = scratch_.take(keysAtOnce_ * ldK_);
    dValue_ = scratch_.take(keysAtOnce_ * ldV_);
    query_ = scratch_.take(rowsAtOnce_ * ldK_);
    dQuery_ = scratch_.take(rowsAtOnce_ * ldK_);
    dOut_ = scratch_.take(rowsAtOnce_ * ldV_);
    lse_ = scratch_.take(rowsAtOnce_);
    d_ = scratch_.take(rowsAtOnce_);
    queryT_ = scratch_.take(rowsAtOnce_ * p_.K);
    dOutT_ = scratch_.take(rowsAtOnce_ * p_.V);
    added_ = scratch_.take(kQueries * ldK_);
    weights_ = scratch_.take(kKeys * kQueries);
    slopes_ = scratch_.take(kKeys * kQueries);
  }

  void run() {
    if (item_.keys.count() == 0) return clear();
    for (int64_t at = item_.keys.begin; at < item_.keys.end; at += keysAtOnce_) {
      const KeyRange keys{at, std::min(at + keysAtOnce_, item_.keys.end)};
      std::memset(dKey_, 0, static_cast<size_t>(keysAtOnce_ * ldK_) * sizeof(float));
      std::memset(dValue_, 0, static_cast<size_t>(keysAtOnce_ * ldV_) * sizeof(float));
      for (int64_t row = 0; row < count_; row += rowsAtOnce_)
        if (!someRows(row, std::min(rowsAtOnce_, count_ - row), keys)) return;
      for (int64_t i = 0; i < keys.count(); ++i) {
        const int64_t row = (item_.sequence->k + at + i) * p_.HKV + item_.head;
        narrow(dKey_ + i * ldK_, p_.K, b_.dk, b_.gradDType, row * p_.K);
        narrow(dValue_ + i * ldV_, p_.V, b_.dv, b_.gradDType, row * p_.V);
      }
    }
  }

 private:
  // Row r of the part of dq, [T,H,K].
  float* queryGradient(int64_t r) const {
    return dq_ + item_.queries + (rows_.at(r) - item_.sequence->q * p_.H) * p_.K;
  }

  void clear() {
    for (int64_t r = 0; r < count_; ++r) std::memset(queryGradient(r), 0, static_cast<size_t>(p_.K) * sizeof(float));
  }

  // Rows [row, row + count) and all of the keys. False where the call was aborted.
  bool someRows(int64_t row, int64_t count, KeyRange keys) {
    readRows(row, count, keys.begin > item_.keys.begin);
    for (int64_t at = keys.begin; at < keys.end; at += kKeys) {
      const KeyRange block{at, std::min(at + kKeys, keys.end)};
      if (usedKeys(p_.mask, rows_.position(row), rows_.position(row + count - 1), block).count() == 0) continue;
      readKeys(block);
      for (int64_t first = 0; first < count; first += kQueries) {
        const int64_t own = std::min<int64_t>(kQueries, count - first);
        const int64_t low = rows_.position(row + first), high = rows_.position(row + first + own - 1);
        const KeyRange used = usedKeys(p_.mask, low, high, block);
        if (used.count() == 0) continue;
        if (isCancelled(p_)) return false;
        const bool whole = used.end <= block.count() && own == kQueries && seesAll(p_.mask, low, high, block);
        panel(row, first, own, block, at - keys.begin, used, !whole);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      float* to = queryGradient(row + i);
      for (int64_t c = 0; c < p_.K; c += kLanes) put(to + c, load(dQuery_ + i * ldK_ + c), lanesLeft(c, p_.K));
    }
    return true;
  }

  void readKeys(KeyRange block) {
    KeyRows{p_.k, nullptr, p_.K}.read(p_, *item_.sequence, item_.head, block, key_);
    KeyRows{p_.v, nullptr, p_.V}.read(p_, *item_.sequence, item_.head, block, value_);
    transposed(key_, ldK_, kKeys, p_.K, keyT_, kKeys);
    transposed(value_, ldV_, kKeys, p_.V, valueT_, kKeys);
    finiteKeys_ = isFinite(key_, kKeys * ldK_);
  }

  // Panels' rows, zeros behind the last one, and dq so far.
  void readRows(int64_t row, int64_t count, bool begun) {
    Scratch scratch(ldV_);
    float* gate = scratch.take(ldV_);
    const int64_t all = roundUp(count, kQueries);
    for (int64_t i = 0; i < all; ++i) {
      float *q = query_ + i * ldK_, *dO = dOut_ + i * ldV_, *dQ = dQuery_ + i * ldK_;
      if (i >= count || !begun) std::memset(dQ, 0, static_cast<size_t>(ldK_) * sizeof(float));
      if (i >= count) {
        std::memset(q, 0, static_cast<size_t>(ldK_) * sizeof(float));
        std::memset(dO, 0, static_cast<size_t>(ldV_) * sizeof(float));
        lse_[i] = d_[i] = 0;
        continue;
      }
      const int64_t at = rows_.at(row + i);
      const int64_t ahead = rows_.at(row + std::min(i + kRowsAhead, count - 1));
      fetchRow(p_.q, p_.dtype, ahead, p_.K);
      fetchRow(b_.dO, p_.dtype, ahead, p_.V);
      widenRow(p_.q, p_.dtype, at, p_.K, q);
      widenRow(b_.dO, p_.dtype, at, p_.V, dO);
      if (begun) widenRow(queryGradient(row + i), DType::F32, 0, p_.K, dQ);
      if (p_.gate) {
        widenRow(p_.gate, p_.gateDType, at, p_.V, gate);
        for (int64_t c = 0; c < ldV_; c += kLanes) store(dO + c, load(dO + c) * sigmoid(load(gate + c)));
      }
      // A row that sees nothing has no level; its weights are 0 at any.
      lse_[i] = saved_.lse[at] == kMasked ? 0 : saved_.lse[at] * kLog2e;
      d_[i] = saved_.d[at];
    }
    const float scale = p_.softcap > 0 ? p_.scale / p_.softcap : p_.scale * kLog2e;
    for (int64_t i = 0; i < all; i += kQueries) {
      transposed(query_ + i * ldK_, ldK_, kQueries, p_.K, queryT_ + i * p_.K, kQueries, ScaledBy{scale});
      transposed(dOut_ + i * ldV_, ldV_, kQueries, p_.V, dOutT_ + i * p_.V, kQueries);
    }
  }

  // Rows [row + first, + count) and the `used` of a block of keys whose gradients are from row `to` on.
  void panel(int64_t row, int64_t first, int64_t count, KeyRange block, int64_t to, KeyRange used, bool masked) {
    float *w = weights_ + used.begin * kQueries, *ds = slopes_ + used.begin * kQueries;
    const float *query = query_ + first * ldK_, *dOut = dOut_ + first * ldV_;
    const int64_t n = used.count(), columns = count > kLanes ? kQueries : kLanes;
    product<1>(n, columns, {keyT_ + used.begin, kKeys, p_.K}, queryT_ + first * p_.K, kQueries, w, kQueries, false);
    product<1>(n, columns, {valueT_ + used.begin, kKeys, p_.V}, dOutT_ + first * p_.V, kQueries, ds, kQueries, false);
    slopes(w, ds, n, columns, row, first, count, block, used, masked);
    float *dKey = dKey_ + (to + used.begin) * ldK_, *dValue = dValue_ + (to + used.begin) * ldV_;
    float *key = key_ + used.begin * ldK_, *dQuery = dQuery_ + first * ldK_;
    const bool plain = !masked;
    if (plain || isFinite(dOut, kQueries * ldV_))
      product<kQueries>(n, ldV_, {w, 1, count}, dOut, ldV_, dValue, ldV_, true);
    else
      addSeen(w, 1, kQueries, n, count, dOut, ldV_, dValue);
    if (plain || isFinite(query, kQueries * ldK_))
      product<kQueries>(n, ldK_, {ds, 1, count}, query, ldK_, dKey, ldK_, true);
    else
      addSeen(ds, 1, kQueries, n, count, query, ldK_, dKey);
    if (plain || finiteKeys_) {
      product<1>(count, ldK_, {ds, kQueries, n}, key, ldK_, added_, ldK_, false);
    } else {
      std::memset(added_, 0, static_cast<size_t>(kQueries * ldK_) * sizeof(float));
      addSeen(ds, kQueries, 1, count, n, key, ldK_, added_);
    }
    for (int64_t i = 0; i < count * ldK_; i += kLanes) store(dQuery + i, load(dQuery + i) + load(added_ + i));
  }

  // w: scores, then weights; ds: the gradients of weights, then scale times those of scores.
  void slopes(float* w, float* ds, int64_t n, int64_t columns, int64_t row, int64_t first, int64_t count,
              KeyRange block, KeyRange used, bool masked) {
    const bool capped = p_.softcap > 0;
    const Vec cap = splat(p_.softcap * kLog2e), scale = splat(p_.scale);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const Vec d = load(d_ + first + j);
      for (int64_t i = 0; i < n; ++i) {
        float *x = w + i * kQueries + j, *y = ds + i * kQueries + j;
        Vec slope = (load(y) - d) * scale;
        if (capped) {
          const Vec t = tanhOf(load(x));
          store(x, cap * t);
          slope = slope * ((1.0f - t) * (1.0f + t));
        }
        store(y, slope);
      }
    }
    if (masked) LaneMask(p_.mask, rows_, row + first, count, block).apply(weights_, used.begin, used.end);
    for (int64_t j = 0; j < columns; j += kLanes) {
      const Vec lse = load(lse_ + first + j);
      for (int64_t i = 0; i < n; ++i) {
        float *x = w + i * kQueries + j, *y = ds + i * kQueries + j;
        // No weight is above one, but what rounding leaves of huge scores may be; lse may be NaN.
        const Vec score = load(x), log = atMost(score - lse, zero());
        const Vec weight = select(score == kMasked, zero(), exp2(log));
        store(x, weight);
        store(y, select(weight == 0.0f, zero(), weight * load(y)));
      }
    }
  }

  const AttentionBackwardArgs& b_;
  const AttentionArgs& p_;
  const AttentionBackwardItem& item_;
  const QueryRows rows_;
  const BackwardRows& saved_;
  float* const dq_;
  const int64_t ldK_, ldV_, count_, rowsAtOnce_, keysAtOnce_;
  Scratch scratch_;
  float *keyT_, *valueT_, *key_, *value_, *dKey_, *dValue_;
  float *query_, *dQuery_, *dOut_, *queryT_, *dOutT_, *lse_, *d_;
  float *added_, *weights_, *slopes_;
  bool finiteKeys_ = true;
};

// d of one row and the gradient of its gate.
void rowGradients(const AttentionBackwardArgs& b, int64_t row, float* d, float* line) {
  const AttentionArgs& p = b.forward;
  const int64_t ldV = padded(p.V);
  float *o = line, *dO = line + ldV, *gate = line + 2 * ldV;
  widenRow(p.o, p.oDType, row, p.V, o);
  widenRow(b.dO, p.dtype, row, p.V, dO);
  Vec total = zero();
  for (int64_t i = 0; i < p.V; i += kLanes) total = fma(load(o + i), load(dO + i), total);
  d[row] = sum(total) - (b.dLse ? b.dLse[row] : 0);
  if (!b.dGate) return;
  widenRow(p.gate, p.gateDType, row, p.V, gate);
  for (int64_t i = 0; i < p.V; i += kLanes) store(gate + i, load(dO + i) * load(o + i) * sigmoid(-load(gate + i)));
  narrow(gate, p.V, b.dGate, b.dGateDType, row * p.V);
}

void sinkGradient(const AttentionBackwardArgs& b, int64_t tokens, int64_t head, const float* d) {
  const AttentionArgs& p = b.forward;
  double total = 0;
  for (int64_t t = 0; t < tokens && !(p.sinks[head] == kMasked); ++t) {
    const int64_t row = t * p.H + head;
    const double log = static_cast<double>(p.sinks[head]) - static_cast<double>(p.lse[row]);
    total -= std::exp(std::min(log, 0.0)) * d[row];
  }
  b.dSinks[head] = static_cast<float>(total);
}

}  // namespace

void attentionBackward(const AttentionBackwardArgs& b) {
  const AttentionArgs& p = b.forward;
  const AttentionBackwardPlan plan = planAttentionBackward(p);
  int64_t tokens = 0, mostParts = 1;
  for (const AttentionSequence& s : *p.sequences) tokens += s.T;
  for (const int64_t parts : plan.parts) mostParts = std::max(mostParts, parts);
  const bool own = mostParts > 1 || b.gradDType != DType::F32;
  const int64_t rows = tokens * p.H;
  Scratch scratch(alignFloats(rows) + (own ? plan.queryFloats : 0));
  float *d = scratch.take(rows), *dq = own ? scratch.take(plan.queryFloats) : static_cast<float*>(b.dq);

  const Split rowWork = splitWork(rows, 8 * p.V);
  parallelFor(rowWork.tasks, p.cancel, [&](int64_t t) {
    Scratch lines(3 * padded(p.V));
    float* line = lines.take(3 * padded(p.V));
    for (int64_t r = rowWork.begin(t); r < rowWork.end(t); ++r) rowGradients(b, r, d, line);
  });
  if (b.dSinks) parallelFor(p.H, p.cancel, [&](int64_t head) { sinkGradient(b, tokens, head, d); });

  const BackwardRows saved{p.lse, d};
  const Split work = splitWork(static_cast<int64_t>(plan.items.size()), plan.cost);
  parallelFor(work.tasks, p.cancel, [&](int64_t t) {
    for (int64_t i = work.begin(t); i < work.end(t); ++i)
      BackwardTask(b, plan.items[static_cast<size_t>(i)], saved, dq).run();
  });
  if (!own) return;
  for (size_t i = 0; i < p.sequences->size(); ++i) {
    const AttentionSequence& s = (*p.sequences)[i];
    const Split join = splitWork(s.T, plan.parts[i] * p.H * p.K);
    parallelFor(join.tasks, p.cancel, [&](int64_t t) {
      Scratch lines(alignFloats(p.H * p.K));
      float* line = lines.take(p.H * p.K);
      joinQueries(p, s, plan.parts[i], dq + plan.queries[i], join.begin(t), join.end(t), line, b.dq, b.gradDType);
    });
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
