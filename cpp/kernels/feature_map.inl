// y = phi(x) of rows [rows, H, K], in tiles of rows of one head; the gradients compute phi again. Sums over rows (of
// weight, bias and scale) go over the tiles of a part in order and then over the parts, whose number depends on shape
// alone, by rowSum. The maps are in feature_rows.inl. Relative error of y within 1e-6 before it is rounded to its
// dtype, e^z apart, which has z's absolute error as its relative one.
#include "kernels/feature_parameters.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

PreparedFeatures prepare(const FeatureMapArgs& p, bool backward) {
  return PreparedFeatures(p.form, p.H, {p.weight, p.weightDType}, {p.bias, p.biasDType}, {p.scale, p.scaleDType},
                          backward, p.cancel);
}

constexpr int64_t kPartialFloats = 1 << 25;  // of all parts, where no fewer than 8 are left

// Sums over rows, [parts, H, ...] of each.
struct Partials {
  float *weight = nullptr, *bias = nullptr, *scale = nullptr;
};

class BackwardPart {
 public:
  BackwardPart(const FeatureMapBackwardArgs& b, const PreparedFeatures& learned, const Partials& partials)
      : b_(b),
        p_(b.forward),
        form_(p_.form),
        learned_(learned),
        partials_(partials),
        most_(featureTileRows(form_)),
        ldK_(paddedLanes(form_.K)),
        ldD_(paddedLanes(form_.D)),
        ldF_(paddedLanes(form_.width())),
        scratch_(floatsOf()),
        tile_(form_, most_) {
    x_ = scratch_.take(most_ * ldK_);
    dx_ = scratch_.take(most_ * ldK_);
    g_ = scratch_.take(most_ * ldF_);
    if (partials.weight) sums_.weight = scratch_.take(form_.K * ldD_);
    if (partials.bias) sums_.bias = scratch_.take(ldD_);
    if (partials.scale) sums_.scale = scratch_.take(ldK_);
  }

  // Rows [begin, end) of head h, whose sums are number `part`.
  void run(int64_t part, int64_t h, int64_t begin, int64_t end) {
    if (sums_.weight) std::memset(sums_.weight, 0, static_cast<size_t>(form_.K * ldD_) * sizeof(float));
    if (sums_.bias) std::memset(sums_.bias, 0, static_cast<size_t>(ldD_) * sizeof(float));
    if (sums_.scale) std::memset(sums_.scale, 0, static_cast<size_t>(ldK_) * sizeof(float));
    const FeatureParameters own = learned_.of(h);
    for (int64_t row = begin; row < end; row += most_) {
      if (p_.cancel && p_.cancel->load(std::memory_order_relaxed)) return;
      const int64_t count = std::min(most_, end - row);
      HeadSlice{p_.dtype, p_.H, form_.K}.read(p_.x, row, count, h, x_);
      HeadSlice{p_.dtype, p_.H, form_.width()}.read(b_.dY, row, count, h, g_);
      tile_.mapBackward(own, x_, g_, count, dx_, sums_);
      HeadSlice{b_.gradDType, p_.H, form_.K}.write(dx_, row, count, h, b_.dX);
    }
    const int64_t K = form_.K, D = form_.D, at = part * p_.H + h;
    if (sums_.weight)
      for (int64_t k = 0; k < K; ++k)
        std::memcpy(partials_.weight + (at * K + k) * D, sums_.weight + k * ldD_,
                    static_cast<size_t>(D) * sizeof(float));
    if (sums_.bias) std::memcpy(partials_.bias + at * D, sums_.bias, static_cast<size_t>(D) * sizeof(float));
    if (sums_.scale)
      for (int64_t k = 0; k < K; ++k) partials_.scale[part * K + k] = sums_.scale[k] * learned_.scaleSlope()[k];
  }

 private:
  size_t floatsOf() const {
    return static_cast<size_t>(2 * alignFloats(most_ * ldK_) + alignFloats(most_ * ldF_) + alignFloats(form_.K * ldD_) +
                               alignFloats(ldD_) + alignFloats(ldK_));
  }

  const FeatureMapBackwardArgs& b_;
  const FeatureMapArgs& p_;
  const FeatureForm& form_;
  const PreparedFeatures& learned_;
  const Partials partials_;
  const int64_t most_, ldK_, ldD_, ldF_;
  Scratch scratch_;
  FeatureTile tile_;
  float *x_ = nullptr, *dx_ = nullptr, *g_ = nullptr;
  FeatureGradients sums_;
};

}  // namespace

void featureMap(const FeatureMapArgs& p) {
  const FeatureForm& form = p.form;
  if (p.rows == 0) return;
  const PreparedFeatures learned = prepare(p, false);
  const int64_t most = featureTileRows(form), tiles = (p.rows + most - 1) / most;
  const Split s = splitWork(tiles * p.H, most * featureCost(form));
  parallelFor(s.tasks, p.cancel, [&](int64_t t) {
    Scratch scratch(alignFloats(most * paddedLanes(form.K)) + alignFloats(most * paddedLanes(form.width())));
    float *x = scratch.take(most * paddedLanes(form.K)), *y = scratch.take(most * paddedLanes(form.width()));
    FeatureTile tile(form, most);
    for (int64_t i = s.begin(t); i < s.end(t); ++i) {
      const int64_t h = i % p.H, row = i / p.H * most, count = std::min(most, p.rows - row);
      HeadSlice{p.dtype, p.H, form.K}.read(p.x, row, count, h, x);
      tile.map(learned.of(h), x, count, y);
      HeadSlice{p.dtype, p.H, form.width()}.write(y, row, count, h, p.y);
    }
  });
}

void featureMapBackward(const FeatureMapBackwardArgs& b) {
  const FeatureMapArgs& p = b.forward;
  const FeatureForm& form = p.form;
  const PreparedFeatures learned = prepare(p, true);
  const int64_t most = featureTileRows(form), tiles = (p.rows + most - 1) / most;
  const bool sums = b.dWeight || b.dBias || b.dScale;
  const int64_t weights = b.dWeight ? p.H * form.K * form.D : 0, biases = b.dBias ? p.H * form.D : 0;
  const int64_t scales = b.dScale ? form.K : 0;
  // Every part has a sum of its own: there are 64 at most, fewer of large weights, the heads taken together, or one to
  // a head.
  const int64_t mostParts = std::clamp<int64_t>(kPartialFloats / std::max<int64_t>(1, weights), 8, 64);
  const int64_t least = sums ? std::max<int64_t>(4, (tiles * p.H + mostParts - 1) / mostParts) : 1;
  const Split s = splitWork(tiles, most * 3 * featureCost(form));
  const int64_t perPart = std::max(least, s.perTask), parts = std::max<int64_t>(1, (tiles + perPart - 1) / perPart);
  Scratch scratch(alignFloats(parts * weights) + alignFloats(parts * biases) + alignFloats(parts * scales));
  Partials partials;
  if (b.dWeight) partials.weight = scratch.take(parts * weights);
  if (b.dBias) partials.bias = scratch.take(parts * biases);
  if (b.dScale) partials.scale = scratch.take(parts * scales);
  parallelFor(parts * p.H, p.cancel, [&](int64_t t) {
    const int64_t part = t / p.H, begin = part * perPart * most;
    BackwardPart(b, learned, partials).run(part, t % p.H, begin, std::min(p.rows, begin + perPart * most));
  });
  const auto add = [&](const float* from, void* to, int64_t n, DType dtype) {
    if (to) rankone::rowSum({from, to, parts, n, p.cancel, DType::F32, dtype});
  };
  add(partials.weight, b.dWeight, weights, b.dWeightDType);
  add(partials.bias, b.dBias, biases, b.dBiasDType);
  add(partials.scale, b.dScale, scales, b.dScaleDType);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
