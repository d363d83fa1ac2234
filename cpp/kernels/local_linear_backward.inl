// Gradients of local linear attention (see local_linear.inl). With x the forward's solution and, of the gradient dO of
// a query's output,
//   g_j = dO v_j,  A y = sum_j p_j g_j (k_j - m),  e = lambda x^T y,
//   f_j = 1 + (k_j - m)^T x,  c_j = g_j - sum_j p_j g_j - (k_j - m)^T y,  ds_j = p_j (c_j f_j - e),
// differentiating A x = q - m, not the steps that solve it, gives
//   dv_j = p_j f_j dO,  dk_j = p_j c_j x - p_j f_j y + scale ds_j q,  dq = y + scale sum_j ds_j k_j,  dlambda = -x^T y
// to be summed over the queries. First every panel of queries solves for x, where it is not given, and y; then tasks
// own some keys of a head each, go over all queries that see them and sum dk and dv, in the order of the queries; dq as
// in attention_backward.inl.
#include "kernels/local_linear_solve.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// What the first half leaves of a row.
struct RowScalars {
  float top, share, meanX, meanY, meanG, excess;  // of its SolvePanel; m^T x, m^T y, sum_j p_j g_j, e
};

struct SolvedRows {
  const float* x;  // [tokens of q,H,K]
  float* y;
  RowScalars* scalars;
  float* dLambda;  // [tokens of q,H]
};

class AdjointTask {
 public:
  AdjointTask(const LocalLinearBackwardArgs& b, const LocalLinearItem& item, const SolvedRows& out, float* x)
      : b_(b),
        a_(b.forward.attention),
        item_(item),
        out_(out),
        solution_(x),
        solver_(b.forward, item),
        ldV_(padded(a_.V)),
        kept_(b.forward.residual ? a_.K * kQueries : 0),
        scratch_(alignFloats(kKeys * ldV_) + alignFloats(kKeys * a_.V) + kKeys * kQueries + kQueries * ldV_ +
                 solver_.panels() * (alignFloats(a_.V * kQueries) + alignFloats(kept_))) {
    value_ = scratch_.take(kKeys * ldV_);
    valueT_ = scratch_.take(kKeys * a_.V);
    products_ = scratch_.take(kKeys * kQueries);
    float* lines = scratch_.take(kQueries * ldV_);
    for (int64_t i = 0; i < solver_.panels(); ++i) {
      float* dO = scratch_.take(a_.V * kQueries);
      readOutputs(i, lines, dO);
      dOutT_.push_back(dO);
      if (kept_) right_.push_back(scratch_.take(kept_));
    }
  }

  void run() {
    if (!solver_.prepare() || !solveForward() || !startAdjoint() || !solver_.solve()) return;
    for (int64_t i = 0; i < solver_.panels(); ++i) finish(i);
    if (!kept_) return;
    for (size_t i = 0; i < right_.size(); ++i)
      std::memcpy(solver_.panel(static_cast<int64_t>(i)).direction, right_[i],
                  static_cast<size_t>(kept_) * sizeof(float));
    solver_.writeResiduals(b_.forward.residual);
  }

 private:
  template <class F>
  void forRows(int64_t i, F&& f) {
    for (int64_t r = 0; r < solver_.rowsOf(i); ++r) f(r, solver_.rows().at(solver_.first(i) + r));
  }

  void readOutputs(int64_t i, float* lines, float* to) {
    std::memset(lines, 0, static_cast<size_t>(kQueries * ldV_) * sizeof(float));
    forRows(i, [&](int64_t r, int64_t row) { widenRow(b_.dO, a_.dtype, row, a_.V, lines + r * ldV_); });
    transposed(lines, ldV_, kQueries, a_.V, to, kQueries);
  }

  // x to the panels, and to where it is kept.
  bool solveForward() {
    for (int64_t i = 0; i < solver_.panels(); ++i) {
      SolvePanel& p = solver_.panel(i);
      if (solution_)
        solver_.startOf(i, p.residual);
      else
        solver_.readRows(i, out_.x, DType::F32, 1, p.x);
    }
    if (solution_ && !solver_.solve()) return false;
    for (int64_t i = 0; i < solver_.panels(); ++i) {
      SolvePanel& p = solver_.panel(i);
      if (solution_) solver_.writeRows(i, p.x, solution_);
      solver_.dots(p.mean, p.x, p.offset);
      forRows(i, [&](int64_t r, int64_t row) {
        RowScalars& scalars = out_.scalars[row];
        scalars.top = p.top[r];
        scalars.share = p.share[r];
        scalars.meanX = p.offset[r];
      });
    }
    return true;
  }

  // sum_j p_j g_j (k_j - m) to every panel's `residual`.
  bool startAdjoint() {
    for (int64_t i = 0; i < solver_.panels(); ++i) {
      SolvePanel& p = solver_.panel(i);
      std::memset(p.total, 0, sizeof p.total);
      std::memset(p.residual, 0, static_cast<size_t>(a_.K * kQueries) * sizeof(float));
    }
    int64_t read = -1;
    const bool done = solver_.forBlocks([&](int64_t i, const SeenKeys& seen) {
      if (read != seen.index) {
        KeyRows{a_.v, nullptr, a_.V}.read(a_, *item_.sequence, item_.head, seen.keys, value_);
        transposed(value_, ldV_, kKeys, a_.V, valueT_, kKeys);
        read = seen.index;
      }
      addAdjoint(i, seen);
    });
    if (!done) return false;
    for (int64_t i = 0; i < solver_.panels(); ++i) {
      SolvePanel& p = solver_.panel(i);
      forLanes([&](int j) __attribute__((always_inline)) {
        const Vec share = load(p.share + j), total = load(p.total + j);
        for (int64_t at = j; at < a_.K * kQueries; at += kQueries)
          store(p.residual + at, fnma(load(p.mean + at), total, load(p.residual + at)) * share);
      });
      forRows(i, [&](int64_t r, int64_t row) { out_.scalars[row].meanG = p.total[r] * p.share[r]; });
      if (kept_) std::memcpy(right_[static_cast<size_t>(i)], p.residual, static_cast<size_t>(kept_) * sizeof(float));
    }
    return true;
  }

  void addAdjoint(int64_t i, const SeenKeys& seen) {
    SolvePanel& p = solver_.panel(i);
    const float* w = solver_.weights(i, seen);
    product<1>(seen.used.count(), kQueries, {valueT_ + seen.used.begin, kKeys, a_.V}, dOutT_[static_cast<size_t>(i)],
               kQueries, products_ + seen.used.begin * kQueries, kQueries, false);
    forLanes([&](int j) __attribute__((always_inline)) {
      Vec total = load(p.total + j);
      for (int64_t at = seen.used.begin * kQueries + j; at < seen.used.end * kQueries; at += kQueries) {
        const Vec weight = load(w + at), c = select(weight == 0.0f, zero(), weight * load(products_ + at));
        store(products_ + at, c);
        total += c;
      }
      store(p.total + j, total);
    });
    solver_.gather(seen, products_, p.residual);
  }

  void finish(int64_t i) {
    SolvePanel& p = solver_.panel(i);
    Lanes both;
    solver_.writeRows(i, p.x, out_.y);
    solver_.readRows(i, out_.x, DType::F32, 1, p.direction);
    solver_.dots(p.mean, p.x, p.offset);
    solver_.dots(p.direction, p.x, both);
    forRows(i, [&](int64_t r, int64_t row) {
      RowScalars& scalars = out_.scalars[row];
      scalars.meanY = p.offset[r];
      scalars.excess = p.lambda[r] * both[r];
      out_.dLambda[row] = -both[r];
    });
  }

  const LocalLinearBackwardArgs& b_;
  const AttentionArgs& a_;
  const LocalLinearItem& item_;
  const SolvedRows& out_;
  float* const solution_;  // where x goes, null where it was given
  SolveTask solver_;
  const int64_t ldV_, kept_;
  Scratch scratch_;
  float *value_, *valueT_, *products_;
  std::vector<float*> dOutT_, right_;  // [V, kQueries] of each panel; A y, where its residual is asked for
};

// Vectors of a panel's queries as rows, and as [width, kQueries].
struct PanelVectors {
  float *rows, *lanes;
};

class KeyGradientTask {
 public:
  KeyGradientTask(const LocalLinearBackwardArgs& b, const AttentionBackwardItem& item, const SolvedRows& solved,
                  float* dq)
      : b_(b),
        a_(b.forward.attention),
        item_(item),
        rows_(queryRows(a_, *item.sequence, item.head)),
        solved_(solved),
        dq_(dq),
        ldK_(padded(a_.K)),
        ldV_(padded(a_.V)),
        scratch_(alignFloats(kKeys * a_.K) + alignFloats(kKeys * a_.V) + (2 * kKeys + 4 * kQueries) * ldK_ +
                 (2 * kKeys + kQueries) * ldV_ + 3 * alignFloats(kQueries * a_.K) + alignFloats(kQueries * a_.V) +
                 4 * kKeys * kQueries + 64) {
    keyT_ = scratch_.take(kKeys * a_.K);
    valueT_ = scratch_.take(kKeys * a_.V);
    key_ = scratch_.take(kKeys * ldK_);
    dKey_ = scratch_.take(kKeys * ldK_);
    value_ = scratch_.take(kKeys * ldV_);
    dValue_ = scratch_.take(kKeys * ldV_);
    for (PanelVectors* v : {&query_, &x_, &y_}) {
      v->rows = scratch_.take(kQueries * ldK_);
      v->lanes = scratch_.take(kQueries * a_.K);
    }
    dOut_.rows = scratch_.take(kQueries * ldV_);
    dOut_.lanes = scratch_.take(kQueries * a_.V);
    dQuery_ = scratch_.take(kQueries * ldK_);
    for (float** coefficients : {&weights_, &f_, &c_, &g_}) *coefficients = scratch_.take(kKeys * kQueries);
  }

  void run() {
    const AttentionSequence& s = *item_.sequence;
    const int64_t rows = s.T * rows_.group;
    const bool first = item_.keys.begin == 0;  // of the parts of dq
    for (int64_t r = 0; r < rows; ++r) {
      const size_t bytes = static_cast<size_t>(a_.K) * sizeof(float);
      first ? std::memcpy(queryGradient(r), solved_.y + rows_.at(r) * a_.K, bytes)
            : std::memset(queryGradient(r), 0, bytes);
    }
    for (int64_t at = item_.keys.begin; at < item_.keys.end; at += kKeys) {
      const KeyRange keys{at, std::min(at + kKeys, item_.keys.end)};
      KeyRows{a_.k, nullptr, a_.K}.read(a_, s, item_.head, keys, key_);
      KeyRows{a_.v, nullptr, a_.V}.read(a_, s, item_.head, keys, value_);
      transposed(key_, ldK_, kKeys, a_.K, keyT_, kKeys);
      transposed(value_, ldV_, kKeys, a_.V, valueT_, kKeys);
      finiteKeys_ = isFinite(key_, kKeys * ldK_);
      std::memset(dKey_, 0, static_cast<size_t>(kKeys * ldK_) * sizeof(float));
      std::memset(dValue_, 0, static_cast<size_t>(kKeys * ldV_) * sizeof(float));
      for (int64_t row = 0; row < rows; row += kQueries) {
        const int64_t count = std::min<int64_t>(kQueries, rows - row);
        const int64_t low = rows_.position(row), high = rows_.position(row + count - 1);
        const KeyRange used = usedKeys(a_.mask, low, high, keys);
        if (used.count() == 0) continue;
        if (isCancelled(a_)) return;
        const bool whole = used.end <= keys.count() && count == kQueries && seesAll(a_.mask, low, high, keys);
        panel(row, count, keys, used, !whole);
      }
      for (int64_t i = 0; i < keys.count(); ++i) {
        const int64_t row = (s.k + at + i) * a_.HKV + item_.head;
        narrow(dKey_ + i * ldK_, a_.K, b_.dk, b_.gradDType, row * a_.K);
        narrow(dValue_ + i * ldV_, a_.V, b_.dv, b_.gradDType, row * a_.V);
      }
    }
  }

 private:
  // Row r of the part of dq, [T,H,K].
  float* queryGradient(int64_t r) const {
    return dq_ + item_.queries + (rows_.at(r) - item_.sequence->q * a_.H) * a_.K;
  }

  void readVectors(int64_t row, int64_t count, const void* tensor, DType dtype, int64_t width, PanelVectors to) {
    const int64_t ld = padded(width);
    for (int64_t i = 0; i < kQueries; ++i)
      if (i < count)
        widenRow(tensor, dtype, rows_.at(row + i), width, to.rows + i * ld);
      else
        std::memset(to.rows + i * ld, 0, static_cast<size_t>(ld) * sizeof(float));
    transposed(to.rows, ld, kQueries, width, to.lanes, kQueries);
  }

  void panel(int64_t row, int64_t count, KeyRange keys, KeyRange used, bool masked) {
    readVectors(row, count, a_.q, a_.dtype, a_.K, query_);
    readVectors(row, count, solved_.x, DType::F32, a_.K, x_);
    readVectors(row, count, solved_.y, DType::F32, a_.K, y_);
    readVectors(row, count, b_.dO, a_.dtype, a_.V, dOut_);
    const Vec log2Scale = splat(a_.scale * kLog2e);  // as SolvePanel::scores: the same scores, bit for bit
    for (int64_t at = 0; at < a_.K * kQueries; at += kLanes)
      store(query_.lanes + at, load(query_.lanes + at) * log2Scale);
    const int64_t n = used.count(), skip = used.begin * kQueries;
    const Scalars keyScalars{keyT_ + used.begin, kKeys, a_.K};
    product<1>(n, kQueries, keyScalars, query_.lanes, kQueries, weights_ + skip, kQueries, false);
    product<1>(n, kQueries, keyScalars, x_.lanes, kQueries, f_ + skip, kQueries, false);
    product<1>(n, kQueries, keyScalars, y_.lanes, kQueries, c_ + skip, kQueries, false);
    product<1>(n, kQueries, {valueT_ + used.begin, kKeys, a_.V}, dOut_.lanes, kQueries, g_ + skip, kQueries, false);
    if (masked) LaneMask(a_.mask, rows_, row, count, keys).apply(weights_, used.begin, used.end);
    coefficients(row, count, used);
    const bool plain = !masked;
    const auto add = [&](const float* c, const float* b, int64_t ld, float* to) {
      if (plain || isFinite(b, kQueries * ld))
        product<kQueries>(n, ld, {c + skip, 1, count}, b, ld, to + used.begin * ld, ld, true);
      else
        addSeen(c + skip, 1, kQueries, n, count, b, ld, to + used.begin * ld);
    };
    add(f_, dOut_.rows, ldV_, dValue_);
    add(c_, x_.rows, ldK_, dKey_);
    add(g_, query_.rows, ldK_, dKey_);
    addQueries(row, count, used, plain);
    for (int64_t at = used.begin * kQueries; at < used.end * kQueries; at += kLanes) store(f_ + at, -load(f_ + at));
    add(f_, y_.rows, ldK_, dKey_);
  }

  // f_: p f, c_: p c, g_: scale ds; 0 where a key is not seen.
  void coefficients(int64_t row, int64_t count, KeyRange used) {
    RowScalars lanes[kQueries] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = solved_.scalars[rows_.at(row + i)];
    const auto gathered = [&](int j, float RowScalars::*member) {
      Vec v;
      for (int l = 0; l < kLanes; ++l) v[l] = lanes[j + l].*member;
      return v;
    };
    forLanes([&](int j) {
      const Vec top = gathered(j, &RowScalars::top), share = gathered(j, &RowScalars::share),
                meanX = gathered(j, &RowScalars::meanX), meanY = gathered(j, &RowScalars::meanY),
                meanG = gathered(j, &RowScalars::meanG), excess = gathered(j, &RowScalars::excess);
      const Vec scale = splat(a_.scale);
      for (int64_t at = used.begin * kQueries + j; at < used.end * kQueries; at += kQueries) {
        const Vec score = load(weights_ + at);
        const Vec p = select(score == kMasked, zero(), exp2(score - top) * share);  // share may be NaN
        const Vec f = load(f_ + at) - meanX + 1.0f, c = (load(g_ + at) - meanG) - (load(c_ + at) - meanY);
        const IVec none = p == 0.0f;
        store(f_ + at, select(none, zero(), p * f));
        store(c_ + at, select(none, zero(), p * c));
        store(g_ + at, select(none, zero(), scale * p * (c * f - excess)));
      }
    });
  }

  void addQueries(int64_t row, int64_t count, KeyRange used, bool plain) {
    const float *ds = g_ + used.begin * kQueries, *key = key_ + used.begin * ldK_;
    if (plain || finiteKeys_) {
      product<1>(count, ldK_, {ds, kQueries, used.count()}, key, ldK_, dQuery_, ldK_, false);
    } else {
      std::memset(dQuery_, 0, static_cast<size_t>(kQueries * ldK_) * sizeof(float));
      addSeen(ds, kQueries, 1, count, used.count(), key, ldK_, dQuery_);
    }
    for (int64_t i = 0; i < count; ++i) {
      float* to = queryGradient(row + i);
      for (int64_t c = 0; c < a_.K; c += kLanes) {
        const int lanes = lanesLeft(c, a_.K);
        put(to + c, get(to + c, lanes) + load(dQuery_ + i * ldK_ + c), lanes);
      }
    }
  }

  const LocalLinearBackwardArgs& b_;
  const AttentionArgs& a_;
  const AttentionBackwardItem& item_;
  const QueryRows rows_;
  const SolvedRows& solved_;
  float* const dq_;
  const int64_t ldK_, ldV_;
  Scratch scratch_;
  float *keyT_, *valueT_, *key_, *dKey_, *value_, *dValue_, *dQuery_;
  PanelVectors query_, x_, y_, dOut_;
  float *weights_, *f_, *c_, *g_;
  bool finiteKeys_ = true;
};

}  // namespace

void localLinearBackward(const LocalLinearBackwardArgs& b) {
  const AttentionArgs& a = b.forward.attention;
  const LocalLinearPlan panels = planLocalLinear(a);
  const AttentionBackwardPlan plan = planAttentionBackward(a);
  int64_t tokens = 0, mostParts = 1;
  for (const AttentionSequence& s : *a.sequences) tokens += s.T;
  for (const int64_t parts : plan.parts) mostParts = std::max(mostParts, parts);
  const int64_t rows = tokens * a.H;
  const bool own = mostParts > 1 || b.gradDType != DType::F32, perHead = b.forward.lambdaOfHead;
  Scratch scratch((b.solved ? 1 : 2) * alignFloats(rows * a.K) + alignFloats(6 * rows) + alignFloats(rows) +
                  (own ? alignFloats(plan.queryFloats) : 0));
  float* x = b.solved ? nullptr : scratch.take(rows * a.K);
  SolvedRows solved;
  solved.x = b.solved ? b.solved : x;
  solved.y = scratch.take(rows * a.K);
  static_assert(sizeof(RowScalars) == 6 * sizeof(float));
  solved.scalars = reinterpret_cast<RowScalars*>(scratch.take(6 * rows));
  solved.dLambda = perHead ? scratch.take(rows) : b.dLambda;
  float* dq = own ? scratch.take(plan.queryFloats) : static_cast<float*>(b.dq);

  const Split solves = splitWork(static_cast<int64_t>(panels.items.size()), 2 * panels.cost);
  parallelFor(solves.tasks, a.cancel, [&](int64_t t) {
    for (int64_t i = solves.begin(t); i < solves.end(t); ++i)
      AdjointTask(b, panels.items[static_cast<size_t>(i)], solved, x).run();
  });
  if (perHead)
    for (int64_t head = 0; head < a.H; ++head) {
      double total = 0;
      for (int64_t t = 0; t < tokens; ++t) total += solved.dLambda[t * a.H + head];
      b.dLambda[head] = static_cast<float>(total);
    }

  const Split work = splitWork(static_cast<int64_t>(plan.items.size()), 2 * plan.cost);
  parallelFor(work.tasks, a.cancel, [&](int64_t t) {
    for (int64_t i = work.begin(t); i < work.end(t); ++i)
      KeyGradientTask(b, plan.items[static_cast<size_t>(i)], solved, dq).run();
  });
  if (!own) return;
  for (size_t i = 0; i < a.sequences->size(); ++i) {
    const AttentionSequence& s = (*a.sequences)[i];
    const Split join = splitWork(s.T, plan.parts[i] * a.H * a.K);
    parallelFor(join.tasks, a.cancel, [&](int64_t t) {
      Scratch lines(alignFloats(a.H * a.K));
      float* line = lines.take(a.H * a.K);
      joinQueries(a, s, plan.parts[i], dq + plan.queries[i], join.begin(t), join.end(t), line, b.dq, b.gradDType);
    });
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
