// The rows of a reversed problem: what takes the gradient of a state from behind the last token back to before the
// first, as updates of a scan. With the token t at hand, in reverse,
//   D <- D(g_(t+1)) D;  D <- D + q_t (scale dO_t)^T;  with the delta rule D <- (I - beta k k^T) D, last key first.
// One token more, all zeros, has the decay of the first one.
namespace rankone {
namespace RANKONE_ISA_NS {

inline size_t HeadRows::reversedFloats(const RecurrenceProblem& p, int64_t capacity) {
  const int64_t steps = capacity * p.n, gates = p.gate == GateKind::Channel ? p.K : 1;
  return alignFloats(steps * Rows::stageStride(p.K)) + alignFloats(steps * Rows::stageStride(p.V)) +
         2 * alignFloats(steps) + alignFloats(capacity * Rows::stageStride(gates));
}

inline void HeadRows::reverse(int64_t sequence, int64_t capacity) {
  const auto stage = [&](int64_t width, int64_t count) {
    return Rows(FloatView(), 0, 0, width, scratch_.take(count * Rows::stageStride(width)));
  };
  const int64_t steps = capacity * p_.n;
  q_ = Rows::repeated(zeros_);
  k_ = stage(p_.K, steps);
  v_ = stage(p_.V, steps);
  beta_ = stage(1, steps);
  written_ = stage(1, steps);
  if (p_.gate == GateKind::Token || p_.gate == GateKind::Channel)
    g_ = stage(p_.gate == GateKind::Channel ? p_.K : 1, capacity);
  tokens_ = p_.length(sequence) - 1;
  reversed_ = std::make_unique<HeadRows>(*p_.reverseOf, p_.v, sequence, hv_, capacity, column0_, column1_);
}

inline void HeadRows::prepareReversed(int64_t t0, int64_t count) {
  HeadRows& from = *reversed_;
  const size_t keyBytes = static_cast<size_t>(p_.K) * sizeof(float);
  const int64_t n = p_.n, end = t0 + count, first = tokens_ > end ? tokens_ - end : 0, last = tokens_ - t0;
  for (Rows* rows : {&k_, &v_, &beta_, &written_}) rows->stageFrom(t0 * n);
  if (last > first) from.prepare(first, last - first, kAll & ~unsigned{kGates});
  const auto step = [&](int64_t s, const float* key, float beta, float written) {
    std::memcpy(k_.stageAt(s), key, keyBytes);
    *beta_.stageAt(s) = beta;
    *written_.stageAt(s) = written;
    std::memset(v_.stageAt(s) + column0_, 0, static_cast<size_t>(column1_ - column0_) * sizeof(float));
  };
  for (int64_t x = t0; x < end; ++x) {
    const int64_t t = tokens_ - 1 - x;
    step(x * n, t < 0 ? zeros_ : from.q(t), 0, 1);
    if (t >= 0) {
      const float* dO = from.dO(t);
      float* to = v_.stageAt(x * n);
      for (int64_t j = column0_; j < column1_; ++j) to[j] = dO[j] * p_.scale;
    }
    for (int64_t j = 1; j < n; ++j) {
      const int64_t s = (t + 1) * (n - 1) - j;
      t < 0 ? step(x * n + j, zeros_, 0, 0) : step(x * n + j, from.k(s), from.beta(s), 0);
    }
  }
  if (!g_.staged()) return;
  const int64_t width = p_.gate == GateKind::Channel ? p_.K : 1, gated = t0 > 0 ? t0 : 1;
  g_.stageFrom(t0);
  if (end > gated) from.prepare(tokens_ - end + 1, end - gated, kGates);
  for (int64_t x = t0; x < end; ++x)
    std::memcpy(g_.stageAt(x), x == 0 ? zeros_ : from.g(tokens_ - x), static_cast<size_t>(width) * sizeof(float));
}

inline void HeadRows::addReversedTo(RowsAhead& ahead, int64_t t0, int64_t count) const {
  const int64_t end = t0 + count, first = tokens_ > end ? tokens_ - end : 0, last = tokens_ - t0;
  if (last <= first) return;
  reversed_->addTo(ahead, first, last - first);
  reversed_->dO_.addTo(ahead, first, last - first, column0_, column1_);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
