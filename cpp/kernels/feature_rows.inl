// Feature maps of vectors x [K] in float32, and their gradients dx from g, that of y [F]:
//
//   elu1       y = x + 1 above 0, e^x elsewhere          Katharopoulos et al., "Transformers are RNNs" (2020)
//   relu       y = max(x, 0)                             Kasai et al., "Finetuning Pretrained Transformers into RNNs"
//   softmax    y = e^x / sum e^x
//   hedgehog   z = W^T x + b, y = [softmax(z), softmax(-z)], or with exp [e^z, e^-z]
//              Zhang et al., "The Hedgehog & the Porcupine" (2024)
//   focused    u = (relu(x) + eps) / softplus(scale), y = |u| u^p / |u^p|
//              Han et al., "FLatten Transformer" (2023); worked with w = u / max(u), whose powers stay in range
//   taylor2    y = [1, x K^-1/4, x_i x_j for i <= j times K^-1/2, or (2K)^-1/2 where i = j], so that products of two
//   are
//              1 + s + s^2/2 of s = x.x' / sqrt(K)       Arora et al., "Simple linear attention language models" (2024)
//
// Sums of a row are float32 within 512 elements and float64 across.
#include "kernels/elementwise.inl"
#include "kernels/recurrence_products.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

constexpr int64_t kFeaturePiece = 512;  // elements added in float32
constexpr float kLowest = -std::numeric_limits<float>::infinity();

inline int64_t paddedLanes(int64_t n) { return roundUp(n, kLanes); }

// Sum over i < n of term(i, lanes), whose lanes from `lanes` on are 0.
template <class F>
RANKONE_INLINE double sumOver(int64_t n, F&& term) {
  double total = 0;
  for (int64_t piece = 0; piece < n; piece += kFeaturePiece) {
    const int64_t end = std::min(n, piece + kFeaturePiece);
    Vec acc = zero();
    for (int64_t i = piece; i < end; i += kLanes) acc += term(i, lanesLeft(i, end));
    total += sum(acc);
  }
  return total;
}

inline double dotRows(const float* a, const float* b, int64_t n) {
  return sumOver(
      n, [&](int64_t i, int lanes) __attribute__((always_inline)) { return get(a + i, lanes) * get(b + i, lanes); });
}

// The largest of sign x; NaN is passed over.
inline float largestOf(const float* x, int64_t n, float sign) {
  Vec most = splat(kLowest);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = load(x + i) * sign;
    most = select(v > most, v, most);
  }
  float m = largest(most);
  for (; i < n; ++i) m = sign * x[i] > m ? sign * x[i] : m;
  return m;
}

// y = softmax(sign x)
inline void softmaxRow(const float* x, int64_t n, float sign, float* y) {
  const Vec most = splat(largestOf(x, n, sign));
  const double total = sumOver(
      n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        put(y + i, exp(get(x + i, lanes) * sign - most), lanes);
        return get(y + i, lanes);
      });
  const Vec inverse = splat(static_cast<float>(1 / total));
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    put(y + i, get(y + i, lanes) * inverse, lanes);
  }
}

inline void eluRow(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    const Vec v = get(x + i, lanes);
    put(y + i, select(v > 0.0f, v + 1.0f, exp(v)), lanes);
  }
}

inline void reluRow(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    put(y + i, atLeast(get(x + i, lanes), zero()), lanes);
  }
}

inline void expRow(const float* x, int64_t n, float sign, float* y) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    put(y + i, exp(get(x + i, lanes) * sign), lanes);
  }
}

// dz of z's softmax y, or of e^z = y, times sign: put into dz, or added to it.
inline void slopeRow(bool normalised, const float* y, const float* g, int64_t n, float sign, bool add, float* dz) {
  const Vec mean = splat(normalised ? static_cast<float>(dotRows(y, g, n)) : 0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    const Vec d = get(y + i, lanes) * (get(g + i, lanes) - mean) * sign;
    put(dz + i, add ? get(dz + i, lanes) + d : d, lanes);
  }
}

RANKONE_INLINE Vec powerOf(Vec x, int power) {
  Vec y = splat(1.0f);
  for (; power; power >>= 1, x *= x)
    if (power & 1) y *= x;
  return y;
}

// u into y, and the largest of it; NaN is passed over.
inline float focusedInput(const FeatureForm& form, const float* inverseScale, const float* x, float* y) {
  for (int64_t i = 0; i < form.K; i += kLanes) {
    const int lanes = lanesLeft(i, form.K);
    const Vec u = atLeast(get(x + i, lanes), zero()) + form.eps;
    put(y + i, inverseScale ? u * get(inverseScale + i, lanes) : u, lanes);
  }
  return largestOf(y, form.K, 1.0f);
}

inline void focusedRow(const FeatureForm& form, const float* inverseScale, const float* x, float* y) {
  const float m = focusedInput(form, inverseScale, x, y);
  if (!(m > 0)) return;  // zeros, or what is no number
  double squares = 0;
  const Vec most = splat(m);
  const double powers = sumOver(
      form.K, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const Vec w = get(y + i, lanes) / most, a = powerOf(w, form.power);
        squares += sum(w * w);
        put(y + i, a, lanes);
        return a * a;
      });
  const Vec factor = splat(static_cast<float>(m * std::sqrt(squares / powers)));
  for (int64_t i = 0; i < form.K; i += kLanes) {
    const int lanes = lanesLeft(i, form.K);
    put(y + i, get(y + i, lanes) * factor, lanes);
  }
}

// room [K]; dScale [K], or null: the sum of du u, which is scale's gradient but for a factor of scale alone, is added.
inline void focusedRowBackward(const FeatureForm& form, const float* inverseScale, const float* x, const float* g,
                               float* dx, float* dScale, float* room) {
  const float m = focusedInput(form, inverseScale, x, room);
  const Vec most = splat(m);
  if (!(m > 0)) {
    for (int64_t i = 0; i < form.K; ++i) dx[i] = room[i];
    return;
  }
  double squares = 0, powers = 0;
  double dot = sumOver(
      form.K, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        const Vec w = get(room + i, lanes) / most, a = powerOf(w, form.power);
        squares += sum(w * w);
        powers += sum(a * a);
        return a * get(g + i, lanes);
      });
  const double length = std::sqrt(squares), ofPowers = std::sqrt(powers);
  dot /= ofPowers;  // of g and the unit vector along u^p
  const Vec along = splat(static_cast<float>(dot / length)), unit = splat(static_cast<float>(dot / ofPowers));
  const Vec ratio = splat(static_cast<float>(form.power * length / ofPowers));
  for (int64_t i = 0; i < form.K; i += kLanes) {
    const int lanes = lanesLeft(i, form.K);
    const Vec u = get(room + i, lanes), w = u / most, slope = powerOf(w, form.power - 1);
    const Vec du = fma(w, along, slope * ratio * fnma(slope * w, unit, get(g + i, lanes)));
    if (dScale) put(dScale + i, fma(du, u, get(dScale + i, lanes)), lanes);
    const Vec d = inverseScale ? du * get(inverseScale + i, lanes) : du;
    put(dx + i, select(get(x + i, lanes) <= 0.0f, zero(), d), lanes);
  }
}

struct TaylorFactors {
  float first, square, mixed;
  explicit TaylorFactors(int64_t K)
      : first(static_cast<float>(1 / std::sqrt(std::sqrt(static_cast<double>(K))))),
        square(static_cast<float>(1 / std::sqrt(2 * static_cast<double>(K)))),
        mixed(static_cast<float>(1 / std::sqrt(static_cast<double>(K)))) {}
};

inline void taylorRow(int64_t K, const float* x, float* y) {
  const TaylorFactors c(K);
  *y++ = 1;
  for (int64_t i = 0; i < K; ++i) *y++ = x[i] * c.first;
  for (int64_t i = 0; i < K; ++i) {
    *y++ = x[i] * x[i] * c.square;
    const Vec s = splat(x[i] * c.mixed);
    for (int64_t j = i + 1; j < K; j += kLanes) {
      const int lanes = lanesLeft(j, K);
      put(y, get(x + j, lanes) * s, lanes);
      y += lanes;
    }
  }
}

inline void taylorRowBackward(int64_t K, const float* x, const float* g, float* dx) {
  const TaylorFactors c(K);
  ++g;
  for (int64_t i = 0; i < K; ++i) dx[i] = *g++ * c.first;
  for (int64_t i = 0; i < K; ++i) {
    const float own = 2 * x[i] * c.square * *g++;
    const Vec s = splat(x[i] * c.mixed);
    Vec acc = zero();
    for (int64_t j = i + 1; j < K; j += kLanes) {
      const int lanes = lanesLeft(j, K);
      const Vec gs = get(g, lanes);
      acc = fma(gs, get(x + j, lanes), acc);
      put(dx + j, fma(gs, s, get(dx + j, lanes)), lanes);
      g += lanes;
    }
    dx[i] += own + sum(acc) * c.mixed;
  }
}

// What a map has learned, of one head, in float32.
struct FeatureParameters {
  const float* weight = nullptr;        // [K, paddedLanes(D)], or null: the identity
  const float* transposed = nullptr;    // [D, paddedLanes(K)], for a backward
  const float* bias = nullptr;          // [paddedLanes(D)], or null
  const float* inverseScale = nullptr;  // [K], or null
};

// Sums that a backward adds to; null: not asked for.
struct FeatureGradients {
  float* weight = nullptr;  // [K, paddedLanes(D)]
  float* bias = nullptr;    // [paddedLanes(D)]
  float* scale = nullptr;   // [K]: see focusedRowBackward
};

// Maps up to `most` rows at a time. x and dx have rows of paddedLanes(K), y and g of paddedLanes(F); what stands beyond
// K in x is 0, and beyond F in y is left as it is.
class FeatureTile {
 public:
  FeatureTile(const FeatureForm& form, int64_t most)
      : form_(form),
        most_(paddedLanes(most)),
        ldK_(paddedLanes(form.K)),
        ldD_(paddedLanes(form.D)),
        ldF_(paddedLanes(form.width())),
        scratch_(floatsOf(form, most)) {
    room_ = scratch_.take(alignFloats(std::max(ldK_, 2 * ldD_)));
    if (!isProjected(form.kind)) return;
    z_ = scratch_.take(most_ * ldD_);
    turned_ = scratch_.take(std::max(form.K, form.D) * most_);
  }

  void map(const FeatureParameters& own, const float* x, int64_t rows, float* y) {
    if (isProjected(form_.kind)) x = project(own, x, rows);
    const int64_t ldX = isProjected(form_.kind) ? ldD_ : ldK_;
    for (int64_t r = 0; r < rows; ++r) mapRow(own, x + r * ldX, y + r * ldF_);
  }

  void mapBackward(const FeatureParameters& own, const float* x, const float* g, int64_t rows, float* dx,
                   const FeatureGradients& sums) {
    if (!isProjected(form_.kind)) {
      for (int64_t r = 0; r < rows; ++r) rowBackward(own, x + r * ldK_, g + r * ldF_, dx + r * ldK_, sums.scale);
      return;
    }
    float* z = project(own, x, rows);
    for (int64_t r = 0; r < rows; ++r) projectedBackward(z + r * ldD_, g + r * ldF_);
    if (sums.weight) product<1>(form_.K, ldD_, {x, ldK_, rows}, z, ldD_, sums.weight, ldD_, true);
    if (sums.bias)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < ldD_; i += kLanes) store(sums.bias + i, load(sums.bias + i) + load(z + r * ldD_ + i));
    if (own.transposed) {
      transposed(z, ldD_, rows, form_.D, turned_, most_);
      product<1>(rows, ldK_, {turned_, most_, form_.D}, own.transposed, ldK_, dx, ldK_, false);
    } else {
      std::memcpy(dx, z, static_cast<size_t>(rows * ldK_) * sizeof(float));
    }
  }

 private:
  static size_t floatsOf(const FeatureForm& form, int64_t most) {
    const int64_t rows = paddedLanes(most), ldK = paddedLanes(form.K), ldD = paddedLanes(form.D);
    int64_t floats = alignFloats(std::max(ldK, 2 * ldD));
    if (isProjected(form.kind)) floats += alignFloats(rows * ldD) + alignFloats(std::max(form.K, form.D) * rows);
    return static_cast<size_t>(floats);
  }

  // z = W^T x + b, whose columns beyond D are 0
  float* project(const FeatureParameters& own, const float* x, int64_t rows) {
    if (own.weight) {
      transposed(x, ldK_, rows, form_.K, turned_, most_);
      product<1>(rows, ldD_, {turned_, most_, form_.K}, own.weight, ldD_, z_, ldD_, false);
    } else {
      std::memcpy(z_, x, static_cast<size_t>(rows * ldK_) * sizeof(float));
    }
    if (own.bias)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < ldD_; i += kLanes)
          store(z_ + r * ldD_ + i, load(z_ + r * ldD_ + i) + load(own.bias + i));
    return z_;
  }

  void mapRow(const FeatureParameters& own, const float* x, float* y) {
    const int64_t K = form_.K, D = form_.D;
    switch (form_.kind) {
      case FeatureKind::None: std::memcpy(y, x, static_cast<size_t>(K) * sizeof(float)); break;
      case FeatureKind::Elu1: eluRow(x, K, y); break;
      case FeatureKind::Relu: reluRow(x, K, y); break;
      case FeatureKind::Softmax: softmaxRow(x, K, 1, y); break;
      case FeatureKind::Hedgehog:
        softmaxRow(x, D, 1, y);
        softmaxRow(x, D, -1, y + D);
        break;
      case FeatureKind::HedgehogExp:
        expRow(x, D, 1, y);
        expRow(x, D, -1, y + D);
        break;
      case FeatureKind::Focused: focusedRow(form_, own.inverseScale, x, y); break;
      case FeatureKind::Taylor2: taylorRow(K, x, y); break;
    }
  }

  void rowBackward(const FeatureParameters& own, const float* x, const float* g, float* dx, float* dScale) {
    const int64_t K = form_.K;
    switch (form_.kind) {
      case FeatureKind::Elu1:
      case FeatureKind::Relu:
        for (int64_t i = 0; i < K; i += kLanes) {
          const int lanes = lanesLeft(i, K);
          const Vec v = get(x + i, lanes), d = get(g + i, lanes);
          const Vec low = form_.kind == FeatureKind::Relu ? select(v <= 0.0f, zero(), v) : d * exp(v);
          put(dx + i, select(v > 0.0f, d, low), lanes);
        }
        break;
      case FeatureKind::Softmax:
        softmaxRow(x, K, 1, room_);
        slopeRow(true, room_, g, K, 1, false, dx);
        break;
      case FeatureKind::Focused: focusedRowBackward(form_, own.inverseScale, x, g, dx, dScale, room_); break;
      case FeatureKind::Taylor2: taylorRowBackward(K, x, g, dx); break;
      default: std::memcpy(dx, g, static_cast<size_t>(K) * sizeof(float));
    }
  }

  // z becomes its gradient
  void projectedBackward(float* z, const float* g) {
    const bool normalised = form_.kind == FeatureKind::Hedgehog;
    const int64_t D = form_.D;
    float* other = room_ + ldD_;
    if (normalised) {
      softmaxRow(z, D, 1, room_);
      softmaxRow(z, D, -1, other);
    } else {
      expRow(z, D, 1, room_);
      expRow(z, D, -1, other);
    }
    slopeRow(normalised, room_, g, D, 1, false, z);
    slopeRow(normalised, other, g + D, D, -1, true, z);
  }

  const FeatureForm form_;
  const int64_t most_, ldK_, ldD_, ldF_;
  Scratch scratch_;
  float *room_ = nullptr, *z_ = nullptr, *turned_ = nullptr;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
