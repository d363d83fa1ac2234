// The rows of one sequence and value head as the recurrence reads them: float32, normalised, activated. Where the
// caller's tensors are that already, the rows are the caller's own memory; else a stretch of tokens at a time is
// converted into scratch.
namespace rankone {
namespace RANKONE_ISA_NS {

constexpr double kNormEpsilon = 1e-6;

// 1 / sqrt(sum x^2 + 1e-6).
inline float inverseNorm(const float* x, int64_t n) {
  Vec squares = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  if (i < n) {
    const Vec rest = loadPart(x + i, static_cast<int>(n - i));
    squares = fma(rest, rest, squares);
  }
  double sumOfSquares = sum(squares);
  if (!std::isfinite(sumOfSquares)) {  // the squares may have overflowed where the norm does not
    sumOfSquares = 0;
    for (int64_t j = 0; j < n; ++j) sumOfSquares += static_cast<double>(x[j]) * x[j];
  }
  return static_cast<float>(1 / std::sqrt(sumOfSquares + kNormEpsilon));
}

// The activation of a raw gate for one value head.
struct GateCurve {
  float rate = 0, lowerBound = 0;  // e^aLog
  bool bounded = false;

  GateCurve(const GateActivation& a, int64_t hv)
      : rate(a ? finiteRate(a.aLog[hv]) : 0), lowerBound(a.lowerBound), bounded(a.bounded) {}

  RANKONE_INLINE Vec operator()(Vec x) const { return bounded ? sigmoid(x * rate) * lowerBound : softplus(x) * -rate; }
  // Derivative by x, and by aLog.
  RANKONE_INLINE Vec slope(Vec x, Vec& byRate) const {
    if (bounded) {
      const Vec y = x * rate, slope = sigmoid(y) * sigmoid(-y) * rate * lowerBound;
      byRate = slope * x;
      return slope;
    }
    byRate = (*this)(x);
    return sigmoid(x) * -rate;
  }

 private:
  // e^aLog, at most the largest float32: infinity would meet zeros of the other factor.
  static float finiteRate(float aLog) {
    const double most = std::numeric_limits<float>::max(), rate = std::exp(static_cast<double>(aLog));
    return static_cast<float>(rate > most ? most : rate);
  }
};

RANKONE_INLINE Vec activateBeta(BetaActivation a, Vec x) {
  return a == BetaActivation::None ? x : sigmoid(x) * (a == BetaActivation::Sigmoid2 ? 2.0f : 1.0f);
}

// Rows that will be wanted soon, in pieces of a few cache lines that are fetched one at a time: more misses at once
// than the core can hold open would stall it, and rows that lie far apart are not found by the hardware's prefetcher.
class RowsAhead {
 public:
  // Floats of scratch that `rows` rows of `bytes` take.
  static int64_t listFloats(int64_t rows, int64_t bytes) {
    return rows * ((bytes + kPiece - 1) / kPiece) * static_cast<int64_t>(sizeof(char*) / sizeof(float));
  }

  RowsAhead() = default;
  explicit RowsAhead(float* list) : pieces_(reinterpret_cast<const char**>(list)) {}
  void clear() { count_ = lines_ = 0; }
  // `count` rows of `bytes` from p on, stride bytes apart.
  void add(const void* p, int64_t bytes, int64_t stride, int64_t count) {
    for (int64_t at = 0; at < bytes; at += kPiece) {
      const char* first = static_cast<const char*>(p) + at;
      const int64_t n = bytes - at < kPiece ? bytes - at : kPiece, lead = reinterpret_cast<uintptr_t>(first) & 63,
                    lines = (lead + n + 63) / 64;
      if (lines > lines_) lines_ = lines;
      for (int64_t r = 0; r < count; ++r, first += stride) pieces_[count_++] = first;
    }
  }
  int64_t count() const { return count_; }
  int64_t lines() const { return lines_; }
  const char* const* pieces() const { return pieces_; }

 private:
  static constexpr int64_t kPiece = 256;
  const char** pieces_ = nullptr;
  int64_t count_ = 0, lines_ = 0;
};

// Rows `stride` elements apart, from element `origin` of a tensor on.
class Rows {
 public:
  Rows() = default;
  // Of the caller's memory if `stage` is null, else converted into it.
  Rows(const FloatView& x, int64_t origin, int64_t stride, int64_t width, float* stage)
      : x_(x), origin_(origin), from_(stride), stage_(stage), width_(width) {
    if (stage) {
      base_ = stage;
      stride_ = stageStride(width);
    } else if (x) {
      base_ = static_cast<const float*>(x.data) + origin;
      stride_ = stride;
    }
  }

  // Every row is this one.
  static Rows repeated(const float* row) {
    Rows rows;
    rows.base_ = row;
    return rows;
  }

  static int64_t stageStride(int64_t width) { return width == 1 ? 1 : roundUp(width, kLanes); }
  bool staged() const { return stage_ != nullptr; }
  const float* at(int64_t row) const { return base_ + (row - first_) * stride_; }
  int64_t stride() const { return stride_; }
  float* stageAt(int64_t row) { return stage_ + (row - first_) * stride_; }
  // The stage is filled by others, from this row on.
  void stageFrom(int64_t first) { first_ = first; }

  // Rows [first, first + count), columns [begin, end) of them.
  void convert(int64_t first, int64_t count, int64_t begin, int64_t end) {
    first_ = first;
    if (width_ == 1) return gather(x_, origin_ + first * from_, from_, count, stage_);
    for (int64_t r = first; r < first + count; ++r)
      widen(x_.data, x_.dtype, origin_ + r * from_ + begin, end - begin, stageAt(r) + begin);
  }

  RANKONE_INLINE void prefetch(int64_t row, int64_t begin, int64_t end) const {
    if (!x_) return;
    const char *p = x_.at(origin_ + row * from_ + begin), *last = x_.at(origin_ + row * from_ + end);
    for (; p < last; p += 64) __builtin_prefetch(p, 0, 2);
  }
  // The original rows [first, first + count), columns [begin, end).
  void addTo(RowsAhead& ahead, int64_t first, int64_t count, int64_t begin, int64_t end) const {
    const int64_t size = static_cast<int64_t>(dtypeSize(x_.dtype));
    if (x_) ahead.add(x_.at(origin_ + first * from_ + begin), (end - begin) * size, from_ * size, count);
  }

 private:
  FloatView x_;
  int64_t origin_ = 0, from_ = 0;
  float* stage_ = nullptr;
  int64_t width_ = 0;
  const float* base_ = nullptr;
  int64_t stride_ = 0, first_ = 0;
};

// 1 - e^g, without cancellation for slow gates.
RANKONE_INLINE Vec keyOfGate(Vec g) { return -select(abs(g) <= 0.5f, expm1Small(g), exp(g) - 1.0f); }

// Whether the rows of these tensors are used as they are given.
inline bool plainKeys(const RecurrenceProblem& p) { return !p.qkL2norm && !p.keysFromGates; }
inline bool plainValues(const RecurrenceProblem& p) { return !p.valueScale; }

class HeadRows {
 public:
  enum Part : unsigned { kQueries = 1, kKeys = 2, kValues = 4, kGates = 8, kBetas = 16, kGradients = 32, kAll = 63 };

  // capacity: tokens that prepare() is asked for at most. [column0, column1): of the values and gradients that matter.
  HeadRows(const RecurrenceProblem& p, const FloatView& dO, int64_t sequence, int64_t hv, int64_t capacity,
           int64_t column0, int64_t column1)
      : p_(p),
        hv_(hv),
        firstStep_(p.start(sequence) * p.n),
        column0_(column0),
        column1_(column1 < p.V ? column1 : p.V),
        curve_(p.gateActivation, hv),
        scratch_(scratchFloats(p, dO, capacity)) {
    if (p.gate == GateKind::Head) {
      headGate_ = p.g ? element(p.g, hv) : 0;  // a preset's own gate is made only where there are tokens
      g_ = Rows::repeated(&headGate_);
    }
    if (!p.q || !p.v) {
      const int64_t width = zeroWidth(p);
      zeros_ = scratch_.take(width);
      std::memset(zeros_, 0, static_cast<size_t>(width) * sizeof(float));
    }
    if (p.reverseOf) {
      reverse(sequence, capacity);
      return;
    }
    const int64_t token = p.start(sequence), step = token * p.n, h = p.keyHead(hv);
    const auto rows = [&](const FloatView& x, bool plain, int64_t first, int64_t heads, int64_t head, int64_t width,
                          int64_t count) {
      if (!x && zeros_) return Rows::repeated(zeros_);
      const bool direct = !x || (plain && x.dtype == DType::F32);
      float* stage = direct ? nullptr : scratch_.take(count * Rows::stageStride(width));
      return Rows(x, (first * heads + head) * width, heads * width, width, stage);
    };
    q_ = rows(p.q, !p.qkL2norm, token, p.H, h, p.K, capacity);
    k_ = rows(p.k, plainKeys(p), step, p.H, h, p.K, capacity * p.n);
    v_ = rows(p.v, plainValues(p), step, p.HV, hv, p.V, capacity * p.n);
    dO_ = rows(dO, true, token, p.HV, hv, p.V, capacity);
    beta_ = rows(p.beta, p.betaActivation == BetaActivation::None, step, p.HV, hv, 1, capacity * p.n);
    if (p.gate == GateKind::Token || p.gate == GateKind::Channel)
      g_ = rows(p.g, !p.gateActivation, token, p.HV, hv, p.gate == GateKind::Channel ? p.K : 1, capacity);
  }

  // Makes the rows of `count` tokens from t0 on readable; the ones before may be gone.
  void prepare(int64_t t0, int64_t count, unsigned parts = kAll) {
    if (reversed_) return prepareReversed(t0, count);
    const int64_t K = p_.K, s0 = t0 * p_.n, steps = count * p_.n;
    if (q_.staged() && (parts & kQueries)) {
      q_.convert(t0, count, 0, K);
      if (p_.qkL2norm) normalizeRows(q_, t0, count);
    }
    if (k_.staged() && (parts & kKeys)) {
      k_.convert(s0, steps, 0, K);
      if (p_.keysFromGates)
        for (int64_t s = s0; s < s0 + steps; ++s)
          apply(k_.stageAt(s), K, [](Vec g, int64_t, int) { return keyOfGate(g); });
      if (p_.qkL2norm) normalizeRows(k_, s0, steps);
    }
    if (v_.staged() && (parts & kValues)) {
      v_.convert(s0, steps, column0_, column1_);
      for (int64_t s = s0; s < s0 + steps && p_.valueScale; ++s) {
        const float by = p_.valueScale[(firstStep_ + s) * p_.HV + hv_];
        apply(v_.stageAt(s) + column0_, column1_ - column0_, [&](Vec x, int64_t, int) { return x * by; });
      }
    }
    if (dO_.staged() && (parts & kGradients)) dO_.convert(t0, count, column0_, column1_);
    if (beta_.staged() && (parts & kBetas)) {
      beta_.convert(s0, steps, 0, 1);
      if (p_.betaActivation != BetaActivation::None)
        apply(beta_.stageAt(s0), steps, [&](Vec x, int64_t, int) { return activateBeta(p_.betaActivation, x); });
    }
    if (g_.staged() && (parts & kGates)) prepareGates(t0, count);
  }

  const float* q(int64_t t) const { return q_.at(t); }
  const float* k(int64_t s) const { return k_.at(s); }
  const float* v(int64_t s) const { return v_.at(s); }
  int64_t vStride() const { return v_.stride(); }
  const float* dO(int64_t t) const { return dO_.at(t); }
  float beta(int64_t s) const { return *beta_.at(s); }
  // What the values of a delta step are multiplied with: beta, where nothing is reversed.
  float written(int64_t s) const { return *written_.at(s); }
  float headGate() const { return headGate_; }
  const float* g(int64_t t) const { return g_.at(t); }  // one value, or K

  // Tokens lie H*K elements apart, too far for the hardware's prefetcher.
  RANKONE_INLINE void prefetchStep(int64_t s, int64_t t) const {
    k_.prefetch(s, 0, p_.K);
    q_.prefetch(t, 0, p_.K);
    if (p_.gate == GateKind::Channel) g_.prefetch(t, 0, p_.K);
    v_.prefetch(s, column0_, column1_);
  }
  // The rows of `count` tokens from t0 on.
  void addTo(RowsAhead& ahead, int64_t t0, int64_t count) const {
    if (reversed_) return addReversedTo(ahead, t0, count);
    k_.addTo(ahead, t0 * p_.n, count * p_.n, 0, p_.K);
    q_.addTo(ahead, t0, count, 0, p_.K);
    if (p_.gate == GateKind::Channel) g_.addTo(ahead, t0, count, 0, p_.K);
    v_.addTo(ahead, t0 * p_.n, count * p_.n, column0_, column1_);
  }

 private:
  // As wide as any row, in whole column blocks.
  static int64_t zeroWidth(const RecurrenceProblem& p) { return roundUp(p.K > p.V ? p.K : p.V, 4 * kLanes); }

  static size_t scratchFloats(const RecurrenceProblem& p, const FloatView& dO, int64_t capacity) {
    const size_t zeros = !p.q || !p.v ? alignFloats(zeroWidth(p)) : 0;
    if (p.reverseOf) return zeros + reversedFloats(p, capacity);
    const auto floats = [](const FloatView& x, bool plain, int64_t width, int64_t count) -> size_t {
      return !x || (plain && x.dtype == DType::F32) ? 0 : alignFloats(count * Rows::stageStride(width));
    };
    const bool channel = p.gate == GateKind::Channel;
    return zeros + floats(p.q, !p.qkL2norm, p.K, capacity) + floats(p.k, plainKeys(p), p.K, capacity * p.n) +
           floats(p.v, plainValues(p), p.V, capacity * p.n) + floats(dO, true, p.V, capacity) +
           floats(p.beta, p.betaActivation == BetaActivation::None, 1, capacity * p.n) +
           floats(p.g, !p.gateActivation, channel ? p.K : 1, capacity);
  }

  // x <- f(x, index, how many) over n contiguous values.
  template <class F>
  static void apply(float* x, int64_t n, F&& f) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(x + i, f(load(x + i), i, kLanes));
    if (i < n) storePart(x + i, f(loadPart(x + i, static_cast<int>(n - i)), i, static_cast<int>(n - i)), n - i);
  }

  void normalizeRows(Rows& rows, int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      float* x = rows.stageAt(r);
      const float by = inverseNorm(x, p_.K);
      apply(x, p_.K, [&](Vec value, int64_t, int) { return value * by; });
    }
  }

  void prepareGates(int64_t t0, int64_t count) {
    const GateActivation& a = p_.gateActivation;
    const bool channel = p_.gate == GateKind::Channel;
    g_.convert(t0, count, 0, channel ? p_.K : 1);
    if (!a) return;
    if (!channel) {
      const float bias = a.dtBias ? a.dtBias[hv_] : 0;
      return apply(g_.stageAt(t0), count, [&](Vec x, int64_t, int) { return curve_(x + bias); });
    }
    const float* bias = a.dtBias ? a.dtBias + hv_ * p_.K : nullptr;
    for (int64_t t = t0; t < t0 + count; ++t)
      apply(g_.stageAt(t), p_.K, [&](Vec x, int64_t i, int lanes) {
        return curve_(!bias ? x : x + (lanes == kLanes ? load(bias + i) : loadPart(bias + i, lanes)));
      });
  }

  // Of a reversed problem: recurrence_reversed_rows.inl.
  static size_t reversedFloats(const RecurrenceProblem& p, int64_t capacity);
  void reverse(int64_t sequence, int64_t capacity);
  void prepareReversed(int64_t t0, int64_t count);
  void addReversedTo(RowsAhead& ahead, int64_t t0, int64_t count) const;

  const RecurrenceProblem& p_;
  const int64_t hv_, firstStep_, column0_, column1_;
  const GateCurve curve_;
  Scratch scratch_;
  Rows q_, k_, v_, dO_, beta_, written_, g_;
  float* zeros_ = nullptr;  // what stands for an absent tensor
  float headGate_ = 0;
  int64_t tokens_ = 0;                  // of a reversed sequence
  std::unique_ptr<HeadRows> reversed_;  // the rows that this one has in reverse
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

#include "kernels/recurrence_reversed_rows.inl"
