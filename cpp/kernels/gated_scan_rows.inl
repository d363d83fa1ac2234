// The rows of some tokens of one sequence and head as the gated scans read them: float32, and made of raw arguments
// where the rule has such. Rows that are that already are the caller's own memory. Part of gated_scan.inl.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// A log gate below this is a reset: the row becomes +0 whatever it held.
constexpr float kScanReset = -104.0f;
constexpr float kRwkvRate = -0.60653066f;  // -e^-0.5: the strongest log decay of RWKV-7

struct RowSource {
  const float* base = nullptr;
  int64_t stride = 0;
  const float* at(int64_t row) const { return base + row * stride; }
};

// How rows are stored as K or V wide vectors: whole ones, zero beyond the end.
inline int64_t paddedWidth(int64_t n) { return roundUp(n, kLanes); }

template <class F>
RANKONE_INLINE void overVectors(int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += kLanes) f(i, lanesLeft(i, n));
}

// e^g s as fma(s, gain, s & keep): gain is e^g, or e^g - 1 where that is exact to more digits.
struct ScanDecay {
  Vec gain;
  IVec keep;
  explicit RANKONE_INLINE ScanDecay(Vec g) {
    const Vec x = atMost(atLeast(g, splat(-105.0f)), splat(89.0f)), n = roundToInteger(x * 1.44269504f);
    const Vec r = fnma(n, splat(1.42860677e-6f), fnma(n, splat(0.693145752f), x));
    Vec p = splat(1.0f / 40320);
    for (float c : {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f}) p = fma(p, r, splat(c));
    p = fma(p * r, r, r);
    keep = n == 0.0f;
    gain = select(keep, p, scaleByPowerOfTwo(p + 1.0f, n));
  }
};

class ScanRows {
 public:
  enum Part { kQ, kK, kA, kB, kG, kParts };

  // capacity: tokens that are readied at most. With `all` every row is a padded copy.
  ScanRows(const GatedScanProblem& p, int64_t sequence, int64_t h, int64_t capacity, bool all)
      : p_(p),
        origin_((p.start(sequence) * p.H + h) * p.K),
        all_(all),
        ld_(paddedWidth(p.K)),
        scratch_(static_cast<size_t>(kParts + 2) * alignFloats(capacity * ld_) + alignFloats(capacity)) {
    for (float*& stage : stages_) stage = scratch_.take(capacity * ld_);
    gain_ = scratch_.take(capacity * ld_);
    keep_ = reinterpret_cast<int32_t*>(scratch_.take(capacity * ld_));
    resets_ = scratch_.take(capacity);
  }

  // Makes the rows of `count` tokens from t0 on readable as 0 .. count-1.
  void ready(int64_t t0, int64_t count) {
    place(kQ, p_.q, t0, count, false);
    place(kK, p_.k, t0, count, false);
    const bool made = p_.rule == ScanRule::Rwkv7;
    place(kG, p_.g, t0, count, made);
    if (p_.a) {
      place(kA, p_.a, t0, count, made);
      place(kB, p_.b, t0, count, made);
    }
    if (made)
      for (int64_t t = 0; t < count; ++t) makeRwkv7(t);
    for (int64_t t = 0; t < count; ++t) decays(t);
  }

  // Token t of the sequence is to be readied soon.
  __attribute__((noinline)) void fetch(int64_t t) const {
    for (const FloatView* x : {&p_.q, &p_.k, &p_.g, &p_.a, &p_.b}) fetchRow(*x, origin_ + t * p_.H * p_.K, p_.K);
  }

  const float* row(Part part, int64_t t) const { return rows_[part].at(t); }
  const float* gain(int64_t t) const { return gain_ + t * ld_; }
  const int32_t* keep(int64_t t) const { return keep_ + t * ld_; }
  bool resets(int64_t t) const { return resets_[t] != 0; }

 private:
  __attribute__((noinline)) void place(Part part, const FloatView& x, int64_t t0, int64_t count, bool copy) {
    const int64_t stride = p_.H * p_.K, first = origin_ + t0 * stride;
    if (!all_ && !copy && x.dtype == DType::F32) {
      rows_[part] = {static_cast<const float*>(x.data) + first, stride};
      return;
    }
    for (int64_t t = 0; t < count; ++t) {
      float* to = stages_[part] + t * ld_;
      if (ld_ > p_.K) store(to + ld_ - kLanes, zero());
      widen(x.data, x.dtype, first + t * stride, p_.K, to);
    }
    rows_[part] = {stages_[part], ld_};
  }

  // g <- -e^-0.5 sigmoid(g), a <- -a / |a|, b <- b a / |a|; |a| is at least 1e-12.
  void makeRwkv7(int64_t t) {
    float *g = stages_[kG] + t * ld_, *a = stages_[kA] + t * ld_, *b = stages_[kB] + t * ld_;
    const float by = static_cast<float>(1 / removalNorm(a, p_.K));
    overVectors(p_.K, [&](int64_t i, int lanes) {
      const Vec unit = get(a + i, lanes) * by;
      put(g + i, sigmoid(get(g + i, lanes)) * kRwkvRate, lanes);
      put(a + i, -unit, lanes);
      put(b + i, get(b + i, lanes) * unit, lanes);
    });
  }

  void decays(int64_t t) {
    const float* g = rows_[kG].at(t);
    const Vec bound = splat(kScanReset);
    IVec any{};
    overVectors(p_.K, [&](int64_t i, int lanes) {
      const Vec x = get(g + i, lanes);
      any |= x < bound;
      const ScanDecay decay(x);
      store(gain_ + t * ld_ + i, decay.gain);
      store(reinterpret_cast<float*>(keep_) + t * ld_ + i, (Vec)decay.keep);
    });
    int32_t found = 0;
    for (int i = 0; i < kLanes; ++i) found |= any[i];
    resets_[t] = found ? 1.0f : 0.0f;
  }

 public:
  static double removalNorm(const float* a, int64_t n) {
    Vec lanes = zero();
    overVectors(n, [&](int64_t i, int count) { lanes = fma(get(a + i, count), get(a + i, count), lanes); });
    double squares = sum(lanes);
    if (!(squares > 1e-30) || !std::isfinite(squares)) {  // where squares leave the range of float32
      squares = 0;
      for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(a[i]) * a[i];
    }
    const double norm = std::sqrt(squares);
    return norm < 1e-12 ? 1e-12 : norm;
  }

 private:
  const GatedScanProblem& p_;
  const int64_t origin_;
  const bool all_;
  const int64_t ld_;
  Scratch scratch_;
  float* stages_[kParts];
  RowSource rows_[kParts];
  float* gain_;
  int32_t* keep_;
  float* resets_;
};

// r . (u k), in float32 lanes.
inline float bonusOf(const float* q, const float* k, const float* u, int64_t n) {
  Vec s = zero();
  overVectors(n, [&](int64_t i, int lanes) { s = fma(get(q + i, lanes), get(u + i, lanes) * get(k + i, lanes), s); });
  return sum(s);
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
