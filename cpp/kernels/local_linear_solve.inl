// What the forward and the backward of local linear attention share: panels of queries (see attention_common.inl), the
// weights and the mean of the keys that each of them sees, and the solution of A x = b with
//   A = sum_j p_j (k_j - mean) (k_j - mean)^T + lambda I
// by conjugate gradients with A's diagonal as preconditioner. A is never formed: A x is two products with each block of
// keys. Everything of a query stands in its lane, so a query's steps depend on nothing but the query: it stops on its
// own, and the panel goes on until all have.
#include "kernels/local_linear_keys.inl"

namespace rankone {
namespace RANKONE_ISA_NS {

// Scalars of a panel, one to a lane.
using Lanes = float[kQueries];

// Vectors stand as [K, kQueries].
struct SolvePanel {
  float* scores;                        // queries, scaled for scores that are logarithms to base 2
  float* mean;                          // of the keys seen, less the reference like them
  float* diagonal;                      // its inverse
  float *residual, *direction, *image;  // image: A direction
  float* x;
  float* weights;         // of the first blocks, [kept][kKeys, kQueries]; made once
  Lanes top, share;       // weights are 2^(score - top), and `share` times them add up to 1; share 0: nothing is seen
  Lanes lambda, scale;    // b and x stand times `scale`, a power of two
  Lanes limit, progress;  // of the squared residual: where to stop; residual^T diagonal residual
  Lanes offset, total;    // of a product: mean^T vector, and the sum of the keys' coefficients
  Lanes active;           // 1 or 0
  int64_t reference;      // see referenceOf
};

// A block of keys as a panel sees it.
struct SeenKeys {
  int64_t index;  // of the block among those of the task
  KeyRange keys, used;
  bool masked;
};

template <class F>
RANKONE_INLINE void forLanes(F&& f) {
  for (int j = 0; j < kQueries; j += kLanes) f(j);
}

// c [rows, kQueries] += a^T b, where b is 0 for a key that a query does not see: a product with 0 is left out.
inline void addSeenLanes(const float* a, int64_t lda, int64_t rows, int64_t depth, const float* b, float* c) {
  for (int64_t d = 0; d < depth; ++d)
    for (int j = 0; j < kQueries; j += kLanes) {
      const Vec w = load(b + d * kQueries + j);
      for (int64_t r = 0; r < rows; ++r) {
        float* to = c + r * kQueries + j;
        store(to, select(w == 0.0f, load(to), fma(splat(a[d * lda + r]), w, load(to))));
      }
    }
}

class SolveTask {
 public:
  SolveTask(const LocalLinearArgs& p, const LocalLinearItem& item)
      : p_(p),
        a_(p.attention),
        item_(item),
        rows_(queryRows(a_, *item.sequence, item.head)),
        ldK_(padded(a_.K)),
        panels_((item.rows + kQueries - 1) / kQueries),
        blocks_(blocksOf()),
        kept_(std::min<int64_t>(kKeptBlocks, static_cast<int64_t>(blocks_.size()))),
        keys_(a_, *item.sequence, item.head),
        scratch_(panels_ * panelFloats() + alignFloats(kKeys * ldK_) + 2 * kKeys * kQueries + kQueries * ldK_) {
    square_ = scratch_.take(alignFloats(kKeys * ldK_));
    made_ = scratch_.take(kKeys * kQueries);
    products_ = scratch_.take(kKeys * kQueries);
    lines_ = scratch_.take(kQueries * ldK_);
    panel_.resize(static_cast<size_t>(panels_));
    for (int64_t i = 0; i < panels_; ++i) begin(i);
  }

  int64_t panels() const { return panels_; }
  int64_t first(int64_t i) const { return item_.row + i * kQueries; }
  int64_t rowsOf(int64_t i) const { return std::min<int64_t>(kQueries, item_.rows - i * kQueries); }
  SolvePanel& panel(int64_t i) { return panel_[static_cast<size_t>(i)]; }
  const QueryRows& rows() const { return rows_; }

  // f(panel, what it sees) for every block and every panel that sees some of it, with the block's keys at hand, plain
  // and less the panel's reference. False where the call was aborted.
  template <class F>
  bool forBlocks(F&& f) {
    for (size_t index = 0; index < blocks_.size(); ++index) {
      if (isCancelled(a_)) return false;
      const KeyRange keys = blocks_[index];
      keys_.read(keys);
      for (int64_t i = 0; i < panels_; ++i) {
        const int64_t count = rowsOf(i), low = rows_.position(first(i)), high = rows_.position(first(i) + count - 1);
        const KeyRange used = usedKeys(a_.mask, low, high, keys);
        if (used.count() == 0) continue;
        const bool whole = used.end <= keys.count() && count == kQueries && seesAll(a_.mask, low, high, keys);
        keys_.shift(panel(i).reference, used);
        f(i, SeenKeys{static_cast<int64_t>(index), keys, used, !whole});
      }
    }
    return true;
  }

  // The softmax of every query's scores, and the mean and the spread of the keys under it.
  bool prepare() {
    if (!forBlocks([&](int64_t i, const SeenKeys& seen) { addScores(i, seen); })) return false;
    for (SolvePanel& p : panel_) startMeans(p);
    if (!forBlocks([&](int64_t i, const SeenKeys& seen) { addMeans(panel(i), seen, weights(i, seen)); })) return false;
    for (SolvePanel& p : panel_) finishMeans(p);
    ready_ = true;
    return true;
  }

  // Weights [kKeys, kQueries] of a block, without `share`; rows outside of seen.used are not written.
  const float* weights(int64_t i, const SeenKeys& seen) {
    SolvePanel& p = panel(i);
    const bool kept = seen.index < kept_;
    float* w = kept ? p.weights + seen.index * kKeys * kQueries : made_;
    if (kept && ready_) return w;
    scores(i, seen, w);
    forLanes([&](int j) __attribute__((always_inline)) {
      const Vec top = load(p.top + j);
      for (int64_t key = seen.used.begin; key < seen.used.end; ++key) {
        const Vec s = load(w + key * kQueries + j);
        store(w + key * kQueries + j, select(s == kMasked, zero(), exp2(s - top)));  // top may be NaN
      }
    });
    return w;
  }

  // Products of the block's shifted keys with the panel's vectors x, less `offset`, to [kKeys, kQueries].
  void project(const SeenKeys& seen, const float* x, const float* offset, float* to) const {
    float* out = to + seen.used.begin * kQueries;
    product<1>(seen.used.count(), kQueries, {keys_.columns() + seen.used.begin, kKeys, a_.K}, x, kQueries, out,
               kQueries, false);
    forLanes([&](int j) __attribute__((always_inline)) {
      const Vec less = load(offset + j);
      for (int64_t key = 0; key < seen.used.count(); ++key) {
        float* o = out + key * kQueries + j;
        store(o, load(o) - less);
      }
    });
  }

  // to [K, kQueries] += key^T c for coefficients c [kKeys, kQueries] that are 0 where a key is not seen.
  void gather(const SeenKeys& seen, const float* c, float* to) const {
    gather(seen, keys_.rows(), keys_.isFinite(), c, to);
  }

  // Sums over K of the products of two panels' vectors.
  void dots(const float* a, const float* b, float* to) const {
    forLanes([&](int j) __attribute__((always_inline)) {
      Vec total[2] = {zero(), zero()};
      for (int64_t c = 0; c < a_.K; ++c)
        total[c & 1] = fma(load(a + c * kQueries + j), load(b + c * kQueries + j), total[c & 1]);
      store(to + j, total[0] + total[1]);
    });
  }

  // q - mean, the forward's b; 0 where nothing is seen.
  void startOf(int64_t i, float* to) {
    const SolvePanel& p = panel(i);
    const float* less = keys_.row(p.reference);
    readRows(i, a_.q, a_.dtype, 1, to);
    forLanes([&](int j) __attribute__((always_inline)) {
      const Vec share = load(p.share + j);
      for (int64_t c = 0; c < a_.K; ++c) {
        float* b = to + c * kQueries + j;
        store(b, select(share == 0.0f, zero(), load(b) - less[c] - load(p.mean + c * kQueries + j)));
      }
    });
  }

  // x = A^-1 b of every panel, b standing in `residual`. False where the call was aborted.
  bool solve() {
    for (SolvePanel& p : panel_) startSolution(p);
    for (int64_t n = 0; n < p_.maxIterations && anyActive(); ++n) {
      if (!applyAll(&SolvePanel::direction)) return false;
      for (SolvePanel& p : panel_)
        if (isActive(p)) advance(p);
    }
    for (SolvePanel& p : panel_)
      forLanes([&](int j) __attribute__((always_inline)) {
        const Vec scale = load(p.scale + j);
        for (int64_t c = 0; c < a_.K; ++c) {
          float* x = p.x + c * kQueries + j;
          store(x, load(x) / scale);
        }
      });
    return true;
  }

  // |b - A x| / |b| of every query, b standing in `direction`.
  bool writeResiduals(float* to) {
    for (SolvePanel& p : panel_) std::fill(p.active, p.active + kQueries, 1.0f);
    if (!applyAll(&SolvePanel::x)) return false;
    for (int64_t i = 0; i < panels_; ++i) {
      const SolvePanel& p = panel(i);
      for (int64_t r = 0; r < rowsOf(i); ++r) {
        double left = 0, all = 0;
        for (int64_t at = r; at < a_.K * kQueries; at += kQueries) {
          const double b = p.direction[at], rest = b - static_cast<double>(p.image[at]);
          left += rest * rest;
          all += b * b;
        }
        to[rows_.at(first(i) + r)] = all == 0 ? 0 : static_cast<float>(std::sqrt(left / all));
      }
    }
    return true;
  }

  // [K, kQueries] as rows of a tensor [tokens, H, K].
  void writeRows(int64_t i, const float* from, float* to) const {
    transposed(from, kQueries, a_.K, kQueries, lines_, ldK_);
    for (int64_t r = 0; r < rowsOf(i); ++r)
      std::memcpy(to + rows_.at(first(i) + r) * a_.K, lines_ + r * ldK_, static_cast<size_t>(a_.K) * sizeof(float));
  }

  // The other way round, times `scale`; zeros in lanes without a query.
  void readRows(int64_t i, const void* tensor, DType dtype, float scale, float* to) const {
    for (int64_t r = 0; r < kQueries; ++r)
      if (r < rowsOf(i))
        widenRow(tensor, dtype, rows_.at(first(i) + r), a_.K, lines_ + r * ldK_);
      else
        std::memset(lines_ + r * ldK_, 0, static_cast<size_t>(ldK_) * sizeof(float));
    transposed(lines_, ldK_, kQueries, a_.K, to, kQueries, ScaledBy{scale});
  }

 private:
  static constexpr int64_t kKeptBlocks = 42;  // 4032 keys: half a megabyte a panel at most

  // The residual that is carried along falls for ever, the true one no further than this; and where its squares leave
  // float32's range, steps lead astray.
  static constexpr float kLeastTolerance = 1e-7f;

  int64_t vectorFloats() const { return alignFloats(a_.K * kQueries); }
  int64_t panelFloats() const { return 7 * vectorFloats() + kept_ * kKeys * kQueries; }

  std::vector<KeyRange> blocksOf() const {
    std::vector<KeyRange> blocks;
    const VisibleKeys seen = visibleKeys(a_.mask, rows_.position(item_.row), rows_.position(item_.row + item_.rows - 1),
                                         item_.sequence->keys());
    int64_t done = 0;
    for (const KeyRange& r : seen.range)
      for (int64_t at = std::max(r.begin, done) / kKeys * kKeys; at < r.end; at += kKeys) {
        if (at < done) continue;
        blocks.push_back({at, std::min(at + kKeys, item_.sequence->keys())});
        done = at + kKeys;
      }
    return blocks;
  }

  void begin(int64_t i) {
    SolvePanel& p = panel(i);
    float* memory = scratch_.take(panelFloats());
    for (float** vector : {&p.scores, &p.mean, &p.diagonal, &p.residual, &p.direction, &p.image, &p.x}) {
      *vector = memory;
      memory += vectorFloats();
    }
    p.weights = memory;
    p.reference = referenceOf(a_, rows_, first(i));
    readRows(i, a_.q, a_.dtype, a_.scale * kLog2e, p.scores);
    for (int r = 0; r < kQueries; ++r) {
      p.top[r] = kMasked;
      p.share[r] = 0;
      const bool query = r < rowsOf(i);
      const int64_t row = query ? rows_.at(first(i) + r) : 0;
      p.lambda[r] = query ? p_.lambda[p_.lambdaOfHead ? row % a_.H : row] : 1;
    }
  }

  void scores(int64_t i, const SeenKeys& seen, float* to) {
    product<1>(seen.used.count(), kQueries, {keys_.plainColumns() + seen.used.begin, kKeys, a_.K},
               panel_[static_cast<size_t>(i)].scores, kQueries, to + seen.used.begin * kQueries, kQueries, false);
    if (seen.masked) LaneMask(a_.mask, rows_, first(i), rowsOf(i), seen.keys).apply(to, seen.used.begin, seen.used.end);
  }

  // `share` is the sum of the weights so far.
  void addScores(int64_t i, const SeenKeys& seen) {
    SolvePanel& p = panel(i);
    scores(i, seen, made_);
    forLanes([&](int j) __attribute__((always_inline)) {
      const Vec before = load(p.top + j);
      Vec now = before;
      for (int64_t key = seen.used.begin; key < seen.used.end; ++key)
        now = larger(load(made_ + key * kQueries + j), now);
      const Vec base = select(now == kMasked, zero(), now);
      Vec total = zero();
      for (int64_t key = seen.used.begin; key < seen.used.end; ++key)
        total += exp2(load(made_ + key * kQueries + j) - base);
      store(p.share + j, fma(load(p.share + j), exp2(before - base), total));
      store(p.top + j, now);
    });
  }

  void startMeans(SolvePanel& p) {
    forLanes([&](int j) __attribute__((always_inline)) {
      const Vec total = load(p.share + j);
      store(p.share + j, select(total == 0.0f, zero(), 1.0f / total));
    });
    for (float* vector : {p.mean, p.diagonal})
      std::memset(vector, 0, static_cast<size_t>(a_.K * kQueries) * sizeof(float));
  }

  void addMeans(SolvePanel& p, const SeenKeys& seen, const float* w) {
    if (squared_ != keys_.version()) {
      const float* key = keys_.rows();
      const int64_t begin = keys_.made().begin * ldK_, end = keys_.made().end * ldK_;
      for (int64_t i = begin; i < end; i += kLanes) store(square_ + i, load(key + i) * load(key + i));
      finiteSquares_ = isFinite(square_ + begin, end - begin);
      squared_ = keys_.version();
    }
    gather(seen, w, p.mean);
    gather(seen, square_, finiteSquares_, w, p.diagonal);
  }

  void finishMeans(SolvePanel& p) {
    forLanes([&](int j) __attribute__((always_inline)) {
      const Vec share = load(p.share + j), lambda = load(p.lambda + j);
      for (int64_t at = j; at < a_.K * kQueries; at += kQueries) {
        const Vec mean = load(p.mean + at) * share, variance = fnma(mean, mean, load(p.diagonal + at) * share);
        store(p.mean + at, mean);
        store(p.diagonal + at, 1.0f / (atLeast(variance, zero()) + lambda));
      }
    });
  }

  void gather(const SeenKeys& seen, const float* rows, bool finite, const float* c, float* to) const {
    const float *from = rows + seen.used.begin * ldK_, *b = c + seen.used.begin * kQueries;
    if (finite || !seen.masked)
      product<1>(a_.K, kQueries, {from, ldK_, seen.used.count()}, b, kQueries, to, kQueries, true);
    else
      addSeenLanes(from, ldK_, a_.K, seen.used.count(), b, to);
  }

  void startSolution(SolvePanel& p) {
    const float tolerance = std::max(p_.tolerance, kLeastTolerance);
    forLanes([&](int j) __attribute__((always_inline)) {
      Vec most = zero();
      for (int64_t at = j; at < a_.K * kQueries; at += kQueries) most = larger(abs(load(p.residual + at)), most);
      const IVec down = 0x7f000000 - ((IVec)most & 0x7f800000);
      const Vec scale = (Vec)(down > 0x00800000 ? down : IVec{} + 0x00800000);
      Vec start = zero(), progress = zero();
      for (int64_t at = j; at < a_.K * kQueries; at += kQueries) {
        const Vec r = load(p.residual + at) * scale, z = r * load(p.diagonal + at);
        store(p.residual + at, r);
        store(p.direction + at, z);
        store(p.x + at, zero());
        start = fma(r, r, start);
        progress = fma(r, z, progress);
      }
      store(p.scale + j, scale);
      store(p.limit + j, start * (tolerance * tolerance));
      store(p.progress + j, progress);
      store(p.active + j, select(start > load(p.limit + j), splat(1.0f), zero()));
    });
  }

  // Tolerance 0 is the same work whatever the data, though a query that is done stays as it is.
  bool isActive(const SolvePanel& p) const {
    return p_.tolerance == 0 || std::any_of(p.active, p.active + kQueries, [](float x) { return x != 0; });
  }
  bool anyActive() const {
    for (const SolvePanel& p : panel_)
      if (isActive(p)) return true;
    return false;
  }

  // image = A v for the vector v of every panel that is active.
  bool applyAll(float* SolvePanel::*vector) {
    for (SolvePanel& p : panel_) {
      dots(p.mean, p.*vector, p.offset);
      std::memset(p.total, 0, sizeof p.total);
      std::memset(p.image, 0, static_cast<size_t>(a_.K * kQueries) * sizeof(float));
    }
    const bool done = forBlocks([&](int64_t i, const SeenKeys& seen) {
      SolvePanel& p = panel(i);
      if (!isActive(p)) return;
      const float* w = weights(i, seen);
      project(seen, p.*vector, p.offset, products_);
      forLanes([&](int j) __attribute__((always_inline)) {
        Vec total = load(p.total + j);
        for (int64_t at = seen.used.begin * kQueries + j; at < seen.used.end * kQueries; at += kQueries) {
          const Vec weight = load(w + at), c = select(weight == 0.0f, zero(), weight * load(products_ + at));
          store(products_ + at, c);
          total += c;
        }
        store(p.total + j, total);
      });
      gather(seen, products_, p.image);
    });
    if (!done) return false;
    for (SolvePanel& p : panel_)
      forLanes([&](int j) __attribute__((always_inline)) {
        const Vec share = load(p.share + j), lambda = load(p.lambda + j), total = load(p.total + j);
        for (int64_t at = j; at < a_.K * kQueries; at += kQueries) {
          const Vec spread = fnma(load(p.mean + at), total, load(p.image + at)) * share;
          store(p.image + at, fma(lambda, load(p.*vector + at), spread));
        }
      });
    return true;
  }

  // One step of every active query from image = A direction.
  void advance(SolvePanel& p) {
    forLanes([&](int j) __attribute__((always_inline)) {
      const int64_t end = a_.K * kQueries;
      Vec curvature = zero();
      for (int64_t at = j; at < end; at += kQueries)
        curvature = fma(load(p.direction + at), load(p.image + at), curvature);
      const IVec active = (load(p.active + j) != 0.0f) & ~(curvature <= 0.0f);  // NaN goes on, into x
      const Vec step = load(p.progress + j) / curvature;
      Vec left = zero(), progress = zero();
      for (int64_t at = j; at < end; at += kQueries) {
        const Vec x = fma(step, load(p.direction + at), load(p.x + at));
        const Vec r = fnma(step, load(p.image + at), load(p.residual + at));
        store(p.x + at, select(active, x, load(p.x + at)));
        store(p.residual + at, r);
        left = fma(r, r, left);
        progress = fma(r * load(p.diagonal + at), r, progress);
      }
      const Vec turn = progress / load(p.progress + j);
      for (int64_t at = j; at < end; at += kQueries)
        store(p.direction + at, fma(turn, load(p.direction + at), load(p.residual + at) * load(p.diagonal + at)));
      store(p.progress + j, progress);
      // Progress can underflow before `left` does: there is no next step then. NaN goes on here as well.
      store(p.active + j, select(active & (left > load(p.limit + j)) & ~(progress <= 0.0f), splat(1.0f), zero()));
    });
  }

  const LocalLinearArgs& p_;
  const AttentionArgs& a_;
  const LocalLinearItem& item_;
  const QueryRows rows_;
  const int64_t ldK_, panels_;
  const std::vector<KeyRange> blocks_;
  const int64_t kept_;
  KeyBlock keys_;
  Scratch scratch_;
  std::vector<SolvePanel> panel_;
  float *square_, *made_, *products_, *lines_;
  int64_t squared_ = 0;  // the version of the keys in `square_`
  bool finiteSquares_ = true, ready_ = false;
};

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
