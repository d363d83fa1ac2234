// What the forward and the backward of linear attention without order share: the learned parts of both maps, tiles of
// tokens, sums of outer products. Rows of features have ldF floats, rows of values ldV, zeros up to there.
#include "kernels/feature_parameters.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int64_t kSumTokens = 256;  // added up in float32 before they join the others

struct Widths {
  int64_t K, V, F, ldK, ldV, ldF, rows;  // rows: of a tile
  explicit Widths(const BidirectionalArgs& p)
      : K(p.K),
        V(p.V),
        F(p.form.width()),
        ldK(paddedLanes(p.K)),
        ldV(paddedLanes(p.V)),
        ldF(paddedLanes(F)),
        rows(F <= 2048 ? 64 : 16) {}
  int64_t sums() const { return F * ldV; }  // of a slot
};

inline bool isCancelled(const BidirectionalArgs& p) { return p.cancel && p.cancel->load(std::memory_order_relaxed); }

// The map of the queries, or of the keys.
struct SideMap {
  PreparedFeatures learned;
  bool shared;
  SideMap(const BidirectionalArgs& p, const FloatView& weight, int64_t heads, bool backward)
      : learned(p.form, p.sharedWeights ? 1 : heads, {weight.data, weight.dtype}, {}, {}, backward, p.cancel),
        shared(p.sharedWeights) {}
  FeatureParameters of(int64_t head) const { return learned.of(shared ? 0 : head); }
};

// Memory for sums of every slot of a side: [slots, F, ldV] and [slots, ldF].
struct SlotSums {
  float *outer = nullptr, *plain = nullptr;
};

// M = sum of w_i values_i^T and z = sum of c_i w_i, over the tokens that are added. Null: none is made.
class OuterSum {
 public:
  OuterSum(const Widths& w, float* M, float* z)
      : w_(w), M_(M), z_(z), scratch_(M ? alignFloats(w.sums()) + alignFloats(w.ldF) : 0) {
    if (!M) return;
    block_ = scratch_.take(w.sums());
    plain_ = scratch_.take(w.ldF);
    std::memset(M, 0, static_cast<size_t>(w.sums()) * sizeof(float));
    std::memset(z, 0, static_cast<size_t>(w.ldF) * sizeof(float));
  }

  // factors: c, or null for ones.
  void add(const float* features, const float* values, const float* factors, int64_t rows) {
    product<1>(w_.F, w_.ldV, {features, w_.ldF, rows}, values, w_.ldV, block_, w_.ldV, tokens_ > 0);
    if (tokens_ == 0) std::memset(plain_, 0, static_cast<size_t>(w_.ldF) * sizeof(float));
    for (int64_t i = 0; i < w_.ldF; i += kLanes) {
      Vec acc = load(plain_ + i);
      for (int64_t r = 0; r < rows; ++r) {
        const Vec x = load(features + r * w_.ldF + i);
        acc = factors ? fma(splat(factors[r]), x, acc) : acc + x;
      }
      store(plain_ + i, acc);
    }
    tokens_ += rows;
    if (tokens_ >= kSumTokens) flush();
  }

  void flush() {
    if (tokens_ == 0) return;
    for (int64_t i = 0; i < w_.sums(); i += kLanes) store(M_ + i, load(M_ + i) + load(block_ + i));
    for (int64_t i = 0; i < w_.ldF; i += kLanes) store(z_ + i, load(z_ + i) + load(plain_ + i));
    tokens_ = 0;
  }

 private:
  const Widths& w_;
  float *M_, *z_;
  Scratch scratch_;
  float *block_ = nullptr, *plain_ = nullptr;
  int64_t tokens_ = 0;
};

// Sum of slots [begin, end) into the first of them, in order: `n` floats of each, a multiple of kLanes, from `at` on.
inline void addSlots(float* slots, int64_t stride, int64_t begin, int64_t end, int64_t at, int64_t n) {
  constexpr int64_t kTogether = 32;
  float* to = slots + begin * stride + at;
  for (int64_t i = 0; i < n; i += kLanes) {
    Vec total = load(to + i);
    for (int64_t block = begin + 1; block < end; block += kTogether) {
      Vec acc = zero();
      for (int64_t s = block; s < std::min(end, block + kTogether); ++s) acc += load(slots + s * stride + at + i);
      total += acc;
    }
    store(to + i, total);
  }
}

// The same for every place of a side; what is summed stands in the place's first slot then.
inline void addPlaces(const BidirectionalArgs& p, const Widths& w, const BidirectionalSide& side, int64_t places,
                      const SlotSums& sums) {
  constexpr int64_t kRows = 64;
  const int64_t pieces = (w.F + kRows - 1) / kRows;
  parallelFor(places * pieces, p.cancel, [&](int64_t t) {
    const int64_t place = t / pieces, row = t % pieces * kRows, begin = side.first[place], end = side.first[place + 1];
    if (sums.outer) addSlots(sums.outer, w.sums(), begin, end, row * w.ldV, std::min(kRows, w.F - row) * w.ldV);
    if (row == 0) addSlots(sums.plain, w.ldF, begin, end, 0, w.ldF);
  });
}

// Tokens of one side, a tile at a time.
class FeatureRows {
 public:
  FeatureRows(const BidirectionalArgs& p, const Widths& w, const void* tensor, int64_t heads)
      : p_(p),
        w_(w),
        tensor_(tensor),
        heads_(heads),
        scratch_(alignFloats(w.rows * w.ldK) + alignFloats(w.rows * w.ldF) + alignFloats(w.F * w.rows)),
        tile_(p.form, w.rows) {
    x_ = scratch_.take(w.rows * w.ldK);
    features_ = scratch_.take(w.rows * w.ldF);
    turned_ = scratch_.take(w.F * w.rows);
    std::memset(features_, 0, static_cast<size_t>(w.rows * w.ldF) * sizeof(float));  // for what is beyond F
  }

  // Rows `row` to `row + count` of a head become features().
  void read(const FeatureParameters& own, int64_t row, int64_t count, int64_t head) {
    HeadSlice{p_.dtype, heads_, w_.K}.read(tensor_, row, count, head, x_);
    tile_.map(own, x_, count, features_);
  }
  float* features() { return features_; }
  float* row(int64_t r) { return features_ + r * w_.ldF; }
  // features() M, [count, ldV]
  void times(const float* M, int64_t count, float* to) {
    transposed(features_, w_.ldF, count, w_.F, turned_, w_.rows);
    product<1>(count, w_.ldV, {turned_, w_.rows, w_.F}, M, w_.ldV, to, w_.ldV, false);
  }
  // From the gradient of features() that of the rows read, into `to`.
  void backward(const FeatureParameters& own, const float* g, int64_t count, float* dx, const FeatureGradients& sums,
                DType dtype, void* to, int64_t row, int64_t head) {
    tile_.mapBackward(own, x_, g, count, dx, sums);
    HeadSlice{dtype, heads_, w_.K}.write(dx, row, count, head, to);
  }

 private:
  const BidirectionalArgs& p_;
  const Widths& w_;
  const void* tensor_;
  const int64_t heads_;
  Scratch scratch_;
  FeatureTile tile_;
  float *x_ = nullptr, *features_ = nullptr, *turned_ = nullptr;
};

// The weights of keys: those given, or the ones of the rank augmentation, [HKV, tokens of k]; ones otherwise.
struct KeyWeights {
  FloatView given;
  const float* own = nullptr;
  int64_t HKV, tokens;
  explicit operator bool() const { return given || own; }
  void read(int64_t row, int64_t count, int64_t head, float* to) const {
    for (int64_t r = 0; r < count; ++r) {
      if (own)
        to[r] = own[head * tokens + row + r];
      else if (given)
        widen(given.data, given.dtype, (row + r) * HKV + head, 1, to + r);
      else
        to[r] = 1;
    }
  }
};

inline void scaleRows(float* rows, int64_t ld, int64_t count, const float* factors) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t i = 0; i < ld; i += kLanes) store(rows + r * ld + i, load(rows + r * ld + i) * factors[r]);
}

// Sums over the keys of an item: sum alpha phi(k) v^T and sum alpha phi(k).
inline void sumKeys(const BidirectionalArgs& p, const Widths& w, const SideMap& map, const KeyWeights& weights,
                    const BidirectionalItem& item, float* M, float* z) {
  FeatureRows keys(p, w, p.k, p.HKV);
  Scratch scratch(alignFloats(w.rows * w.ldV) + alignFloats(w.rows));
  float *values = scratch.take(w.rows * w.ldV), *alpha = scratch.take(w.rows);
  OuterSum sum(w, M, z);
  for (int64_t at = item.begin; at < item.end; at += w.rows) {
    if (isCancelled(p)) return;
    const int64_t count = std::min(w.rows, item.end - at), row = item.sequence->k + at;
    keys.read(map.of(item.head), row, count, item.head);
    HeadSlice{p.dtype, p.HKV, w.V}.read(p.v, row, count, item.head, values);
    if (weights) {
      weights.read(row, count, item.head, alpha);
      scaleRows(keys.features(), w.ldF, count, alpha);
    }
    sum.add(keys.features(), values, nullptr, count);
  }
  sum.flush();
}

template <class F>
void forItems(const BidirectionalArgs& p, const BidirectionalSide& side, F&& f) {
  parallelFor(static_cast<int64_t>(side.tasks.size()), p.cancel, [&](int64_t t) {
    const BidirectionalTask& task = side.tasks[static_cast<size_t>(t)];
    for (int64_t i = 0; i < task.count; ++i) f(task, side.items[static_cast<size_t>(task.item + i)]);
  });
}

// M and z of every place, in its first slot.
inline void sumWave(const BidirectionalArgs& p, const Widths& w, const SideMap& map, const KeyWeights& weights,
                    const BidirectionalWave& wave, const SlotSums& sums) {
  forItems(p, wave.keys, [&](const BidirectionalTask&, const BidirectionalItem& item) {
    sumKeys(p, w, map, weights, item, sums.outer + item.slot * w.sums(), sums.plain + item.slot * w.ldF);
  });
  addPlaces(p, w, wave.keys, wave.places, sums);
}

// The rank augmentation's weights of the wave's keys: alpha_s = S softmax over s of c phi(k_s).m, where m is the mean
// of phi(q) over the sequence and the group, and c = K^-1/2. means: [slots of the queries, ldF], with m in every
// place's first.
inline void weighKeys(const BidirectionalArgs& p, const Widths& w, const SideMap& queries, const SideMap& keys,
                      const BidirectionalWave& wave, float* means, float* alpha) {
  forItems(p, wave.queries, [&](const BidirectionalTask&, const BidirectionalItem& item) {
    FeatureRows rows(p, w, p.q, p.H);
    float* to = means + item.slot * w.ldF;
    std::memset(to, 0, static_cast<size_t>(w.ldF) * sizeof(float));
    const Vec share = splat(1 / static_cast<float>(item.sequence->T * (p.H / p.HKV)));
    for (int64_t at = item.begin; at < item.end; at += w.rows) {
      const int64_t count = std::min(w.rows, item.end - at);
      rows.read(queries.of(item.head), item.sequence->q + at, count, item.head);
      for (int64_t i = 0; i < w.ldF; i += kLanes) {
        Vec acc = zero();
        for (int64_t r = 0; r < count; ++r) acc += load(rows.row(r) + i);
        store(to + i, fma(acc, share, load(to + i)));
      }
    }
  });
  addPlaces(p, w, wave.queries, wave.places, {nullptr, means});
  const float c = static_cast<float>(1 / std::sqrt(static_cast<double>(p.K)));
  forItems(p, wave.keys, [&](const BidirectionalTask&, const BidirectionalItem& item) {
    FeatureRows rows(p, w, p.k, p.HKV);
    const float* mean = means + wave.queries.first[static_cast<size_t>(item.place)] * w.ldF;
    for (int64_t at = item.begin; at < item.end; at += w.rows) {
      const int64_t count = std::min(w.rows, item.end - at), row = item.sequence->k + at;
      rows.read(keys.of(item.head), row, count, item.head);
      for (int64_t r = 0; r < count; ++r)
        alpha[item.head * p.keyTokens + row + r] = c * static_cast<float>(dotRows(rows.row(r), mean, w.F));
    }
  });
  parallelFor(wave.places, p.cancel, [&](int64_t place) {
    const BidirectionalSequence& s = *wave.sequences[static_cast<size_t>(place / p.HKV)];
    float* own = alpha + place % p.HKV * p.keyTokens + s.k;
    if (s.S > 0) softmaxRow(own, s.S, 1, own);
    for (int64_t i = 0; i < s.S; ++i) own[i] *= static_cast<float>(s.S);
  });
}

// What a row of the output is its numerator times; and the denominator, 1 where nothing is divided by.
struct RowFactor {
  float factor, denominator;
};
inline RowFactor rowFactor(const BidirectionalArgs& p, const Widths& w, const float* features, const float* z) {
  if (!p.normalize) return {p.scale, 1};
  const float denominator = static_cast<float>(dotRows(features, z, w.F) + p.eps);
  return denominator == 0.0f ? RowFactor{0, 1} : RowFactor{p.scale / denominator, denominator};
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
