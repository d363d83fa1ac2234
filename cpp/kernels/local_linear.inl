// Local linear attention. With the softmax p of a query's scores, the mean m = sum_j p_j k_j of the keys that it sees
// and A = sum_j p_j (k_j - m) (k_j - m)^T + lambda I,
//   o = sum_j p_j (1 + (k_j - m)^T x) v_j,  A x = q - m:
// the intercept of a ridge regression of the values on k_j - q. With omega the sum of the softmax's weights w, the
// paper solves (sum_j w_j z_j z_j^T + lambda omega I) rho = sum_j w_j z_j, z_j = k_j - q, and takes the values with
// w_j (1 - z_j^T rho) / (omega - rho^T sum_j w_j z_j), which is the same (Sherman and Morrison: x = -rho times omega
// over that divisor) and loses bits in the divisor where q is far from m.
//
// Zuo et al., "Local linear attention: an optimal interpolation of linear and softmax attention for test-time
// regression" (2025); ridge and preconditioner as in the authors' kernels.
#include "kernels/local_linear_solve.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

class LocalLinearTask {
 public:
  LocalLinearTask(const LocalLinearArgs& p, const LocalLinearItem& item)
      : p_(p),
        a_(p.attention),
        item_(item),
        solver_(p, item),
        ldV_(padded(a_.V)),
        scratch_(alignFloats(kKeys * ldV_) + kKeys * kQueries + solver_.panels() * kQueries * ldV_) {
    value_ = scratch_.take(kKeys * ldV_);
    products_ = scratch_.take(kKeys * kQueries);
    sums_ = scratch_.take(solver_.panels() * kQueries * ldV_);
  }

  void run() {
    if (!solver_.prepare()) return;
    for (int64_t i = 0; i < solver_.panels(); ++i) solver_.startOf(i, solver_.panel(i).residual);
    if (!solver_.solve()) return;
    if (p_.solution)
      for (int64_t i = 0; i < solver_.panels(); ++i) solver_.writeRows(i, solver_.panel(i).x, p_.solution);
    if (p_.residual) {
      for (int64_t i = 0; i < solver_.panels(); ++i) solver_.startOf(i, solver_.panel(i).direction);
      if (!solver_.writeResiduals(p_.residual)) return;
    }
    writeValues();
  }

 private:
  void writeValues() {
    std::memset(sums_, 0, static_cast<size_t>(solver_.panels() * kQueries * ldV_) * sizeof(float));
    for (int64_t i = 0; i < solver_.panels(); ++i) {
      SolvePanel& p = solver_.panel(i);
      solver_.dots(p.mean, p.x, p.offset);
    }
    int64_t read = -1;
    bool finite = true;
    const bool done = solver_.forBlocks([&](int64_t i, const SeenKeys& seen) {
      if (read != seen.index) {
        KeyRows{a_.v, a_.cache.v, a_.V}.read(a_, *item_.sequence, item_.head, seen.keys, value_);
        finite = isFinite(value_, kKeys * ldV_);
        read = seen.index;
      }
      addValues(i, seen, finite);
    });
    if (!done) return;
    for (int64_t i = 0; i < solver_.panels(); ++i)
      for (int64_t r = 0; r < solver_.rowsOf(i); ++r)
        narrow(sums_ + (i * kQueries + r) * ldV_, a_.V, a_.o, a_.oDType,
               solver_.rows().at(solver_.first(i) + r) * a_.V);
  }

  void addValues(int64_t i, const SeenKeys& seen, bool finite) {
    SolvePanel& p = solver_.panel(i);
    const float* w = solver_.weights(i, seen);
    solver_.project(seen, p.x, p.offset, products_);
    forLanes([&](int j) __attribute__((always_inline)) {
      const Vec share = load(p.share + j);
      for (int64_t at = seen.used.begin * kQueries + j; at < seen.used.end * kQueries; at += kQueries) {
        const Vec weight = load(w + at);
        store(products_ + at, select(weight == 0.0f, zero(), weight * share * (load(products_ + at) + 1.0f)));
      }
    });
    const int64_t count = solver_.rowsOf(i), n = seen.used.count();
    const float *s = products_ + seen.used.begin * kQueries, *value = value_ + seen.used.begin * ldV_;
    float* sums = sums_ + i * kQueries * ldV_;
    if (finite || !seen.masked)
      product<1>(count, ldV_, {s, kQueries, n}, value, ldV_, sums, ldV_, true);
    else
      addSeen(s, kQueries, 1, count, n, value, ldV_, sums);
  }

  const LocalLinearArgs& p_;
  const AttentionArgs& a_;
  const LocalLinearItem& item_;
  SolveTask solver_;
  const int64_t ldV_;
  Scratch scratch_;
  float *value_, *products_, *sums_;
};

}  // namespace

void localLinear(const LocalLinearArgs& p) {
  const LocalLinearPlan plan = planLocalLinear(p.attention);
  const Split work = splitWork(static_cast<int64_t>(plan.items.size()), plan.cost);
  parallelFor(work.tasks, p.attention.cancel, [&](int64_t t) {
    for (int64_t i = work.begin(t); i < work.end(t); ++i) LocalLinearTask(p, plan.items[static_cast<size_t>(i)]).run();
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
