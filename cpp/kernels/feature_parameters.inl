// What feature maps have learned, as float32 in rows of whole vectors: made once per call, for all heads.
#include "kernels/feature_rows.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// One parameter of several heads: tensor [H, rows, width].
struct HeadParameter {
  const void* tensor = nullptr;
  DType dtype = DType::F32;
};

class PreparedFeatures {
 public:
  PreparedFeatures(const FeatureForm& form, int64_t H, HeadParameter weight, HeadParameter bias, HeadParameter scale,
                   bool backward, const CancelFlag* cancel)
      : form_(form),
        ldK_(paddedLanes(form.K)),
        ldD_(paddedLanes(form.D)),
        scratch_(sizeOf(form, H, weight, bias, scale, backward)) {
    if (weight.tensor) {
      weight_ = scratch_.take(H * form.K * ldD_);
      if (backward) transposed_ = scratch_.take(H * form.D * ldK_);
      parallelFor(H, cancel, [&](int64_t h) {
        float* to = weight_ + h * form_.K * ldD_;
        for (int64_t k = 0; k < form_.K; ++k) widenPadded(weight, h * form_.K + k, form_.D, to + k * ldD_);
        if (!transposed_) return;
        float* turned = transposed_ + h * form_.D * ldK_;
        for (int64_t d = 0; d < form_.D; ++d)
          for (int64_t k = 0; k < ldK_; ++k) turned[d * ldK_ + k] = k < form_.K ? to[k * ldD_ + d] : 0;
      });
    }
    if (bias.tensor) {
      bias_ = scratch_.take(H * ldD_);
      for (int64_t h = 0; h < H; ++h) widenPadded(bias, h, form.D, bias_ + h * ldD_);
    }
    if (!scale.tensor) return;
    inverseScale_ = scratch_.take(ldK_);
    scaleSlope_ = scratch_.take(ldK_);
    widenPadded(scale, 0, form.K, inverseScale_);
    for (int64_t i = 0; i < ldK_; i += kLanes) {
      const Vec raw = load(inverseScale_ + i), inverse = splat(1.0f) / softplus(raw);
      store(inverseScale_ + i, inverse);
      store(scaleSlope_ + i, -(sigmoid(raw) * inverse));
    }
  }

  FeatureParameters of(int64_t h) const {
    FeatureParameters own;
    if (weight_) own.weight = weight_ + h * form_.K * ldD_;
    if (transposed_) own.transposed = transposed_ + h * form_.D * ldK_;
    if (bias_) own.bias = bias_ + h * ldD_;
    own.inverseScale = inverseScale_;
    return own;
  }
  // [K]: scale's gradient is this times what FeatureGradients::scale has summed.
  const float* scaleSlope() const { return scaleSlope_; }

 private:
  static size_t sizeOf(const FeatureForm& form, int64_t H, HeadParameter weight, HeadParameter bias,
                       HeadParameter scale, bool backward) {
    const int64_t ldK = paddedLanes(form.K), ldD = paddedLanes(form.D);
    size_t floats = 0;
    if (weight.tensor) floats += alignFloats(H * form.K * ldD) + (backward ? alignFloats(H * form.D * ldK) : 0);
    if (bias.tensor) floats += alignFloats(H * ldD);
    if (scale.tensor) floats += 2 * alignFloats(ldK);
    return floats;
  }

  static void widenPadded(HeadParameter from, int64_t row, int64_t n, float* to) {
    widen(from.tensor, from.dtype, row * n, n, to);
    for (int64_t i = n; i < paddedLanes(n); ++i) to[i] = 0;
  }

  const FeatureForm form_;
  const int64_t ldK_, ldD_;
  Scratch scratch_;
  float *weight_ = nullptr, *transposed_ = nullptr, *bias_ = nullptr;
  float *inverseScale_ = nullptr, *scaleSlope_ = nullptr;
};

// Rows `row` to `row + count` of one head of a tensor [rows, H, width], and back.
struct HeadSlice {
  DType dtype;
  int64_t H, width;
  void read(const void* tensor, int64_t row, int64_t count, int64_t h, float* to) const {
    withDType(dtype, [&](auto d) {
      using D = decltype(d);
      constexpr int64_t kAhead = 8;  // rows of other heads stand in between, too far for the hardware to see a pattern
      const auto* from = elements<D>(tensor, (row * H + h) * width);
      const int64_t step = H * width, lines = width * int64_t{sizeof(*from)};
      for (int64_t r = 0; r < count; ++r, from += step) {
        const auto* ahead = reinterpret_cast<const char*>(from + (r + kAhead < count ? kAhead : 0) * step);
        for (int64_t line = 0; line < lines; line += 64) __builtin_prefetch(ahead + line);
        for (int64_t i = 0; i < width; i += kLanes, to += kLanes) store(to, get<D>(from + i, lanesLeft(i, width)));
      }
    });
  }
  void write(const float* from, int64_t row, int64_t count, int64_t h, void* tensor) const {
    for (int64_t r = 0; r < count; ++r, from += paddedLanes(width))
      narrow(from, width, tensor, dtype, ((row + r) * H + h) * width);
  }
};

// Rows that are worked on at a time: by shape alone, with tiles that stay in cache.
inline int64_t featureTileRows(const FeatureForm& form) {
  const int64_t width = 2 * form.K + 2 * form.D + 2 * form.width();
  return std::max<int64_t>(1, std::min<int64_t>(64, 65536 / width));
}

// Flops of one row, about.
inline int64_t featureCost(const FeatureForm& form) {
  return (isProjected(form.kind) ? 2 * form.K * form.D : 0) + 20 * (form.width() + form.K);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
