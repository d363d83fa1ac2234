// Gradients of linear attention without order. With y = scale num / den of num = phi(q)^T M and den = phi(q).z + eps,
// and g = dO * modulate:
//   dN = scale g / den,  dd = -(g.y) / den,  dModulate = dO * y
//   dphi(q) = M dN + dd z,  dM = sum_t phi(q_t) dN_t^T,  dz = sum_t dd_t phi(q_t)
//   dv = alpha dM^T phi(k),  dalpha = phi(k).(dM v + dz),  dphi(k) = alpha (dM v + dz)
// Under the rank augmentation, alpha = S softmax(l) of l_s = c phi(k_s).m, where m is the mean of phi(q):
//   dl_s = alpha_s (dalpha_s - (<dM, M> + dz.z) / S),  dphi(k_s) += c dl_s m,  dphi(q_t) += sum_s c dl_s phi(k_s) /
//   count,
// so that queries take a second turn, behind the keys. Features are made again, tile by tile, and so are numerators.
#include "kernels/bidirectional_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// Gradients of a weight: [heads, parts, K, ldD], added to in place, and at the end added up over the parts.
struct WeightSums {
  float* memory = nullptr;
  int64_t parts = 0, floats = 0;
  FeatureGradients of(const BidirectionalTask& task) const {
    return {memory ? memory + (task.head * parts + task.part) * floats : nullptr, nullptr, nullptr};
  }
};

class BackwardPass {
 public:
  BackwardPass(const BidirectionalBackwardArgs& b, const Widths& w)
      : b_(b),
        p_(b.forward),
        w_(w),
        queries_(p_, p_.qWeight, p_.H, true),
        keys_(p_, p_.kWeight, p_.HKV, true),
        scratch_(floatsOf()) {
    if (p_.rankAugmented) alpha_ = scratch_.take(p_.HKV * p_.keyTokens);
    ofQueries_ = weightSums(b.dQWeight, p_.H);
    ofKeys_ = weightSums(b.dKWeight, p_.HKV);
  }

  void run(const BidirectionalWave& wave) {
    const int64_t keySlots = wave.keys.slots(), querySlots = wave.queries.slots();
    const int64_t turned = wave.places * w_.V * w_.ldF, means = p_.rankAugmented ? querySlots * w_.ldF : 0;
    Scratch scratch(alignFloats(keySlots * w_.sums()) + alignFloats(keySlots * w_.ldF) + 2 * alignFloats(turned) +
                    alignFloats(querySlots * w_.sums()) + 2 * alignFloats(querySlots * w_.ldF) +
                    alignFloats(keySlots * w_.ldF));
    wave_ = &wave;
    sums_.outer = scratch.take(keySlots * w_.sums());
    sums_.plain = scratch.take(keySlots * w_.ldF);
    slopes_.outer = scratch.take(querySlots * w_.sums());
    slopes_.plain = scratch.take(querySlots * w_.ldF);
    turnedSums_ = scratch.take(turned);
    turnedSlopes_ = scratch.take(turned);
    if (p_.rankAugmented) {
      means_ = scratch.take(means);
      meanSlopes_ = scratch.take(keySlots * w_.ldF);
      weighKeys(p_, w_, queries_, keys_, wave, means_, alpha_);
    }
    sumWave(p_, w_, keys_, weights(), wave, sums_);
    turn(wave.keys, sums_.outer, turnedSums_);
    forItems(p_, wave.queries, [&](const BidirectionalTask& task, const BidirectionalItem& item) {
      queryItem(task, item, true, !p_.rankAugmented);
    });
    addPlaces(p_, w_, wave.queries, wave.places, slopes_);
    turn(wave.queries, slopes_.outer, turnedSlopes_);
    forItems(p_, wave.keys, [&](const BidirectionalTask& task, const BidirectionalItem& item) { keyItem(task, item); });
    if (!p_.rankAugmented) return;
    addPlaces(p_, w_, wave.keys, wave.places, {nullptr, meanSlopes_});
    forItems(p_, wave.queries,
             [&](const BidirectionalTask& task, const BidirectionalItem& item) { queryItem(task, item, false, true); });
  }

  void finish() {
    writeWeight(ofQueries_, b_.dQWeight, b_.dQWeightDType, p_.H);
    writeWeight(ofKeys_, b_.dKWeight, b_.dKWeightDType, p_.HKV);
  }

 private:
  int64_t weightFloats() const { return p_.form.K * paddedLanes(p_.form.D); }

  size_t floatsOf() const {
    int64_t floats = p_.rankAugmented ? alignFloats(p_.HKV * p_.keyTokens) : 0;
    for (const auto& [wanted, heads] : {std::pair{b_.dQWeight, p_.H}, {b_.dKWeight, p_.HKV}})
      if (wanted) floats += alignFloats(heads * bidirectionalParts(heads) * weightFloats());
    return static_cast<size_t>(floats);
  }

  WeightSums weightSums(const void* wanted, int64_t heads) {
    if (!wanted) return {};
    WeightSums sums{nullptr, bidirectionalParts(heads), weightFloats()};
    const int64_t all = heads * sums.parts * sums.floats;
    sums.memory = scratch_.take(all);
    std::memset(sums.memory, 0, static_cast<size_t>(all) * sizeof(float));
    return sums;
  }

  void writeWeight(const WeightSums& sums, void* to, DType dtype, int64_t heads) const {
    if (!to) return;
    const int64_t own = p_.sharedWeights ? 1 : heads, each = heads * sums.parts / own, D = p_.form.D;
    parallelFor(own, p_.cancel, [&](int64_t h) {
      addSlots(sums.memory, sums.floats, h * each, (h + 1) * each, 0, sums.floats);
      for (int64_t k = 0; k < p_.form.K; ++k)
        narrow(sums.memory + h * each * sums.floats + k * paddedLanes(D), D, to, dtype, (h * p_.form.K + k) * D);
    });
  }

  KeyWeights weights() const { return {p_.alpha, alpha_, p_.HKV, p_.keyTokens}; }
  static int64_t firstOf(const BidirectionalSide& side, int64_t place) {
    return side.first[static_cast<size_t>(place)];
  }

  // [V, ldF] of every place from its sums [F, ldV]
  void turn(const BidirectionalSide& side, const float* sums, float* to) const {
    parallelFor(wave_->places, p_.cancel, [&](int64_t place) {
      float* own = to + place * w_.V * w_.ldF;
      std::memset(own, 0, static_cast<size_t>(w_.V * w_.ldF) * sizeof(float));
      transposed(sums + firstOf(side, place) * w_.sums(), w_.ldV, w_.F, w_.V, own, w_.ldF);
    });
  }

  // `sums`: dM, dz and dModulate; `gradients`: dq.
  void queryItem(const BidirectionalTask& task, const BidirectionalItem& item, bool sums, bool gradients) const {
    FeatureRows queries(p_, w_, p_.q, p_.H);
    Scratch scratch(3 * alignFloats(w_.rows * w_.ldV) + alignFloats(w_.V * w_.rows) + alignFloats(w_.rows * w_.ldF) +
                    alignFloats(w_.rows * w_.ldK) + alignFloats(w_.rows) + alignFloats(w_.ldF));
    float *num = scratch.take(w_.rows * w_.ldV), *dN = scratch.take(w_.rows * w_.ldV);
    float *modulate = scratch.take(w_.rows * w_.ldV), *turned = scratch.take(w_.V * w_.rows);
    float *dFeatures = scratch.take(w_.rows * w_.ldF), *dx = scratch.take(w_.rows * w_.ldK);
    float *dd = scratch.take(w_.rows), *shared = scratch.take(w_.ldF);
    const int64_t place = firstOf(wave_->keys, item.place);
    const float *M = sums_.outer + place * w_.sums(), *z = sums_.plain + place * w_.ldF;
    std::memset(shared, 0, static_cast<size_t>(w_.ldF) * sizeof(float));
    if (p_.rankAugmented && gradients) {
      const Vec share = splat(1 / static_cast<float>(item.sequence->T * (p_.H / p_.HKV)));
      for (int64_t i = 0; i < w_.ldF; i += kLanes) store(shared + i, load(meanSlopes_ + place * w_.ldF + i) * share);
    }
    const FeatureParameters own = queries_.of(item.head);
    OuterSum total(w_, sums ? slopes_.outer + item.slot * w_.sums() : nullptr, slopes_.plain + item.slot * w_.ldF);
    for (int64_t at = item.begin; at < item.end; at += w_.rows) {
      if (isCancelled(p_)) return;
      const int64_t count = std::min(w_.rows, item.end - at), row = item.sequence->q + at;
      queries.read(own, row, count, item.head);
      queries.times(M, count, num);
      HeadSlice{p_.dtype, p_.H, w_.V}.read(b_.dO, row, count, item.head, dN);
      if (p_.modulate) HeadSlice{p_.modulate.dtype, p_.H, w_.V}.read(p_.modulate.data, row, count, item.head, modulate);
      for (int64_t r = 0; r < count; ++r)
        dd[r] = slopeRow(queries.row(r), z, num + r * w_.ldV, modulate + r * w_.ldV, dN + r * w_.ldV);
      if (sums) {
        if (p_.modulate) HeadSlice{b_.dModulateDType, p_.H, w_.V}.write(modulate, row, count, item.head, b_.dModulate);
        total.add(queries.features(), dN, dd, count);
      }
      if (!gradients) continue;
      transposed(dN, w_.ldV, count, w_.V, turned, w_.rows);
      product<1>(count, w_.ldF, {turned, w_.rows, w_.V}, turnedSums_ + item.place * w_.V * w_.ldF, w_.ldF, dFeatures,
                 w_.ldF, false);
      for (int64_t r = 0; r < count; ++r)
        for (int64_t i = 0; i < w_.ldF; i += kLanes) {
          float* d = dFeatures + r * w_.ldF + i;
          store(d, fma(splat(dd[r]), load(z + i), load(d)) + load(shared + i));
        }
      queries.backward(own, dFeatures, count, dx, ofQueries_.of(task), b_.gradDType, b_.dq, row, item.head);
    }
    total.flush();
  }

  // Of one row: dO in g becomes dN, the modulation its gradient; the result is dd.
  float slopeRow(const float* features, const float* z, const float* num, float* modulate, float* g) const {
    const RowFactor own = rowFactor(p_, w_, features, z);
    const Vec factor = splat(own.factor);
    for (int64_t i = 0; i < w_.ldV && p_.modulate; i += kLanes) {
      const Vec dO = load(g + i);
      store(g + i, dO * load(modulate + i));
      store(modulate + i, dO * load(num + i) * factor);
    }
    const float dot = p_.normalize ? static_cast<float>(dotRows(g, num, w_.V)) : 0.0f;
    for (int64_t i = 0; i < w_.ldV; i += kLanes) store(g + i, load(g + i) * factor);
    return p_.normalize ? -dot * own.factor / own.denominator : 0.0f;
  }

  void keyItem(const BidirectionalTask& task, const BidirectionalItem& item) const {
    FeatureRows keys(p_, w_, p_.k, p_.HKV);
    Scratch scratch(2 * alignFloats(w_.rows * w_.ldV) + alignFloats(w_.V * w_.rows) + alignFloats(w_.rows * w_.ldF) +
                    alignFloats(w_.rows * w_.ldK) + alignFloats(w_.rows));
    float *values = scratch.take(w_.rows * w_.ldV), *dv = scratch.take(w_.rows * w_.ldV);
    float *turned = scratch.take(w_.V * w_.rows), *slope = scratch.take(w_.rows * w_.ldF);
    float *dx = scratch.take(w_.rows * w_.ldK), *alpha = scratch.take(w_.rows);
    const int64_t place = firstOf(wave_->queries, item.place);
    const float *dM = slopes_.outer + place * w_.sums(), *dz = slopes_.plain + place * w_.ldF;
    const FeatureParameters own = keys_.of(item.head);
    const Augmented augmented = augmentedOf(item);
    for (int64_t at = item.begin; at < item.end; at += w_.rows) {
      if (isCancelled(p_)) return;
      const int64_t count = std::min(w_.rows, item.end - at), row = item.sequence->k + at;
      keys.read(own, row, count, item.head);
      HeadSlice{p_.dtype, p_.HKV, w_.V}.read(p_.v, row, count, item.head, values);
      weights().read(row, count, item.head, alpha);
      keys.times(dM, count, dv);
      scaleRows(dv, w_.ldV, count, alpha);
      HeadSlice{b_.gradDType, p_.HKV, w_.V}.write(dv, row, count, item.head, b_.dv);
      transposed(values, w_.ldV, count, w_.V, turned, w_.rows);
      product<1>(count, w_.ldF, {turned, w_.rows, w_.V}, turnedSlopes_ + item.place * w_.V * w_.ldF, w_.ldF, slope,
                 w_.ldF, false);
      for (int64_t r = 0; r < count; ++r)
        keyRow(keys.row(r), dz, slope + r * w_.ldF, alpha[r], row + r, item, augmented);
      keys.backward(own, slope, count, dx, ofKeys_.of(task), b_.gradDType, b_.dk, row, item.head);
    }
  }

  // What the keys of an item need to know for the rank augmentation.
  struct Augmented {
    const float* mean = nullptr;
    float* meanSlope = nullptr;
    float level = 0, c = 0;  // level: (<dM, M> + dz.z) / S
  };

  Augmented augmentedOf(const BidirectionalItem& item) const {
    Augmented a;
    if (!p_.rankAugmented) return a;
    const int64_t keys = firstOf(wave_->keys, item.place), queries = firstOf(wave_->queries, item.place);
    const double total = dotRows(sums_.outer + keys * w_.sums(), slopes_.outer + queries * w_.sums(), w_.sums()) +
                         dotRows(sums_.plain + keys * w_.ldF, slopes_.plain + queries * w_.ldF, w_.ldF);
    a.mean = means_ + queries * w_.ldF;
    a.meanSlope = meanSlopes_ + item.slot * w_.ldF;
    std::memset(a.meanSlope, 0, static_cast<size_t>(w_.ldF) * sizeof(float));
    a.level = static_cast<float>(total / std::max<double>(1, static_cast<double>(item.sequence->S)));
    a.c = static_cast<float>(1 / std::sqrt(static_cast<double>(p_.K)));
    return a;
  }

  // slope: dM v, which becomes the gradient of the features.
  void keyRow(const float* features, const float* dz, float* slope, float alpha, int64_t row,
              const BidirectionalItem& item, const Augmented& augmented) const {
    for (int64_t i = 0; i < w_.ldF; i += kLanes) store(slope + i, load(slope + i) + load(dz + i));
    if (!p_.alpha && !augmented.mean) return;
    const float dAlpha = static_cast<float>(dotRows(features, slope, w_.F));
    if (b_.dAlpha) narrow(&dAlpha, 1, b_.dAlpha, b_.dAlphaDType, row * p_.HKV + item.head);
    const Vec factor = splat(alpha);
    if (!augmented.mean) {
      for (int64_t i = 0; i < w_.ldF; i += kLanes) store(slope + i, load(slope + i) * factor);
      return;
    }
    const Vec dl = splat(augmented.c * alpha * (dAlpha - augmented.level));
    for (int64_t i = 0; i < w_.ldF; i += kLanes) {
      store(slope + i, fma(dl, load(augmented.mean + i), load(slope + i) * factor));
      store(augmented.meanSlope + i, fma(dl, load(features + i), load(augmented.meanSlope + i)));
    }
  }

  const BidirectionalBackwardArgs& b_;
  const BidirectionalArgs& p_;
  const Widths& w_;
  SideMap queries_, keys_;
  Scratch scratch_;
  const BidirectionalWave* wave_ = nullptr;
  SlotSums sums_, slopes_;  // M and z; dM and dz
  float *turnedSums_ = nullptr, *turnedSlopes_ = nullptr;
  float *alpha_ = nullptr, *means_ = nullptr, *meanSlopes_ = nullptr;
  WeightSums ofQueries_, ofKeys_;
};

}  // namespace

void bidirectionalAttentionBackward(const BidirectionalBackwardArgs& b, const std::vector<BidirectionalWave>& waves) {
  const Widths w(b.forward);
  BackwardPass pass(b, w);
  for (const BidirectionalWave& wave : waves) pass.run(wave);
  pass.finish();
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
