// Gradients of windowLinearAttention. With the weights w, their sum Z and g = dO / Z of a query:
//   u_i = g . v_i - g . o,  dv_i = w_i g,  R = sum of w_i u_i over the window
//   ds_i = w_i u_i, less R at the largest score, for c has it too (in equal shares where several are the largest)
//   d(phiQ . phiK_i) = lambda u_i,  dlog gamma = R and, as all w_i u_i add up to 0, dlog lambda = -R
// Segments are gone over twice: forwards for the weights, which needs S and leaves each query's g and what its segment
// adds to the gradient of S; backwards for what the state owes to keys and values. A segment's queries that see keys of
// the one before leave their share in memory of its own.
namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// What the first sweep leaves for the second one, by query.
struct WindowLinearRows {
  float *inverse, *along;  // 1 / Z and g . o, [tokens,H]
  double* factors;         // R, [segments,H]
};

// dk, dv and dPhiK of the positions before a segment's own that its queries see: [reach][heads][width], of all heads.
class SegmentEdges {
 public:
  SegmentEdges(const WindowLinearArgs& p, const WindowLinearPlan& plan)
      : p_(p),
        rows_(plan.states ? std::min(p.reach(), plan.tokens) : 0),
        floats_(rows_ * (p.HKV * (p.K + p.V) + p.HF * p.F)),
        scratch_(plan.states * floats_),
        memory_(plan.states ? scratch_.take(plan.states * floats_) : nullptr) {}
  int64_t rows() const { return rows_; }
  float* dk(int64_t segment) const { return memory_ + segment * floats_; }
  float* dv(int64_t segment) const { return dk(segment) + rows_ * p_.HKV * p_.K; }
  float* dPhiK(int64_t segment) const { return dv(segment) + rows_ * p_.HKV * p_.V; }

 private:
  const WindowLinearArgs& p_;
  const int64_t rows_, floats_;
  Scratch scratch_;
  float* memory_;
};

inline void addRow(const float* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    put(to + i, get(to + i, lanes) + get(from + i, lanes), lanes);
  }
}

class WindowLinearGradient : WindowLinearChunk {
 public:
  WindowLinearGradient(const WindowLinearBackward& p, const WindowLinearSegment& segment, int64_t index, int64_t head,
                       const SegmentStates& states, const WindowLinearRows& saved, const SegmentEdges& edges)
      : WindowLinearChunk(p, *segment.sequence, head, true),
        b_(p),
        segment_(segment),
        index_(index),
        group_(p.H / p.HKV),
        memory_(states),
        saved_(saved),
        edges_(edges),
        stateFloats_(2 * groupF_ * states.floats()),
        own_(stateFloats_ + most_ * (kChunk + ldK_ + ldV_) + alignFloats(p.V * most_) + groupF_ * mostTail_ * ldF_ +
             kChunk * (ldV_ + ldK_ + ldF_) + alignFloats(p.V * kChunk) + alignFloats(p.V * ldF_ + kLanes) + 16 * 8) {
    states_ = own_.take(stateFloats_);
    slopes_ = own_.take(most_ * kChunk);
    valueT_ = own_.take(p.V * most_);
    dKey_ = own_.take(most_ * ldK_);
    dValue_ = own_.take(most_ * ldV_);
    dFeature_ = own_.take(groupF_ * mostTail_ * ldF_);
    dOut_ = own_.take(kChunk * ldV_);
    dOutT_ = own_.take(p.V * kChunk);
    dQuery_ = own_.take(kChunk * ldK_);
    dPhiQuery_ = own_.take(kChunk * ldF_);
    stateT_ = own_.take(p.V * ldF_);
  }

  // Everything but what keys and values get through the state. `share`: what the segment adds to the state's gradient,
  // one to a head of features; null: not wanted.
  void forwards(const FeatureState* share) {
    clearOwn();
    std::vector<FeatureState> states;
    for (int64_t f = 0; f < groupF_; ++f) {
      states.push_back(memory_.split(states_ + f * memory_.floats()));
      const int64_t row = s_.state * p_.HF + head_ * groupF_ + f;
      if (segment_.memory >= 0) {
        const FeatureState from = memory_.at(segment_.memory, head_ * groupF_ + f);
        std::memcpy(states.back().S, from.S, static_cast<size_t>(p_.F * ldV_) * sizeof(float));
        std::memcpy(states.back().z, from.z, static_cast<size_t>(p_.F) * sizeof(float));
      } else {
        takeState(p_, p_.initialState ? p_.initialState + row * p_.F * p_.V : nullptr,
                  p_.initialZ ? p_.initialZ + row * p_.F : nullptr, states.back());
      }
      if (share) memory_.clear(share[f]);
    }
    std::vector<double> factors(static_cast<size_t>(group_), 0.0);
    for (int64_t t = segment_.begin; t < segment_.end; t += kChunk) {
      if (stopped()) return;
      takeKeys(t, std::min(t + kChunk, segment_.end));
      transposed(value_, ldV_, keys_, p_.V, valueT_, most_);
      finiteKeys_ = isFinite(key_, keys_ * ldK_);
      std::memset(dKey_, 0, static_cast<size_t>(keys_ * ldK_) * sizeof(float));
      std::memset(dValue_, 0, static_cast<size_t>(keys_ * ldV_) * sizeof(float));
      std::memset(dFeature_, 0, static_cast<size_t>(groupF_ * mostTail_ * ldF_) * sizeof(float));
      int64_t turned = -1;  // whose state stateT_ has
      for (int64_t i = 0; i < group_; ++i) {
        const int64_t h = head_ * group_ + i, f = featureOf(h);
        const FeatureState& state = states[static_cast<size_t>(f)];
        if (hasState(started()) && turned != f) transposed(state.S, ldV_, p_.F, p_.V, stateT_, ldF_);
        turned = f;
        factors[static_cast<size_t>(i)] += head(h, f, state, share ? share + f : nullptr);
      }
      addOut();
      if (t + kChunk < segment_.end)
        for (int64_t f = 0; f < groupF_; ++f) fold(f, states[static_cast<size_t>(f)]);
    }
    for (int64_t i = 0; i < group_; ++i)
      saved_.factors[index_ * p_.H + head_ * group_ + i] = factors[static_cast<size_t>(i)];
  }

  // The rest. The states hold the gradient of what is behind the segment, and get that of what is before it.
  void backwards(const FeatureState* gradients) {
    addEdges();
    const int64_t chunks = (segment_.end - segment_.begin + kChunk - 1) / kChunk;
    if (segment_.last && b_.dFinalState) throughState(p_.begin(s_.T), s_.T, gradients);
    for (int64_t c = chunks - 1; c >= 0; --c) {
      if (stopped()) return;
      const int64_t t = segment_.begin + c * kChunk, end = std::min(t + kChunk, segment_.end);
      throughState(p_.begin(t), p_.begin(end), gradients);
      if (!started() && p_.begin(t) == 0) continue;
      first_ = t;
      count_ = end - t;
      for (int64_t i = 0; i < group_; ++i) {
        const int64_t h = head_ * group_ + i;
        takeGradient(h);
        takeQueries(p_.phiQ, p_.phiDType, h, p_.F, phiQuery_, phiQueryT_, WindowWeight(p_, h).linear);
        addToState(gradients[featureOf(h)]);
      }
    }
  }

 private:
  bool started() const { return p_.initialState != nullptr; }

  void clearOwn() const {
    const auto clear = [&](float* rows, int64_t heads, int64_t head, int64_t width, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        std::memset(rows + (i * heads + head) * width, 0, static_cast<size_t>(width) * sizeof(float));
    };
    const auto clearAll = [&](float* dk, float* dv, float* dPhiK, int64_t count) {
      clear(dk, p_.HKV, head_, p_.K, count);
      clear(dv, p_.HKV, head_, p_.V, count);
      for (int64_t f = head_ * groupF_; f < (head_ + 1) * groupF_; ++f) clear(dPhiK, p_.HF, f, p_.F, count);
    };
    const int64_t row = s_.row + segment_.begin, count = segment_.end - segment_.begin;
    clearAll(b_.dk + row * p_.HKV * p_.K, b_.dv + row * p_.HKV * p_.V, b_.dPhiK + row * p_.HF * p_.F, count);
    if (segment_.memory >= 0)
      clearAll(edges_.dk(segment_.memory), edges_.dv(segment_.memory), edges_.dPhiK(segment_.memory), edges_.rows());
  }

  // dO / Z of a chunk's queries, by row and by lane, once their sums are known.
  void divideGradient(int64_t h) {
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t at = queryRow(i, h);
      const Vec by = splat(saved_.inverse[at]);
      for (int64_t c = 0; c < ldV_; c += kLanes) store(dOut_ + i * ldV_ + c, load(dOut_ + i * ldV_ + c) * by);
    }
    const int64_t most = roundUp(count_, kLanes);
    transposed(dOut_, ldV_, most, p_.V, dOutT_, kChunk);
  }
  void readGradient(int64_t h) {
    for (int64_t i = 0; i < count_; ++i) widenRow(b_.dO, p_.dtype, queryRow(i, h), p_.V, dOut_ + i * ldV_);
    const int64_t most = roundUp(count_, kLanes);
    std::memset(dOut_ + count_ * ldV_, 0, static_cast<size_t>((most - count_) * ldV_) * sizeof(float));
  }
  void takeGradient(int64_t h) {
    readGradient(h);
    divideGradient(h);
    for (int64_t i = 0; i < kChunk; ++i) along_[i] = i < count_ ? saved_.along[queryRow(i, h)] : 0;
  }

  // One head of a chunk; returns R of its queries.
  double head(int64_t h, int64_t f, const FeatureState& state, const FeatureState* share) {
    attend(h, state, started());
    readGradient(h);
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t at = queryRow(i, h);
      saved_.inverse[at] = 1 / total_[i];
      Vec along = zero();
      for (int64_t c = 0; c < ldV_; c += kLanes)
        along = fma(load(out_ + i * ldV_ + c) * saved_.inverse[at], load(dOut_ + i * ldV_ + c), along);
      saved_.along[at] = along_[i] = sum(along) * saved_.inverse[at];
    }
    for (int64_t i = count_; i < kChunk; ++i) along_[i] = 0;
    divideGradient(h);
    const int64_t columns = roundUp(count_, kLanes);
    product<1>(keys_, columns, {valueT_, most_, p_.V}, dOutT_, kChunk, slopes_, kChunk, false);
    double factor = 0;
    for (int64_t j = 0; j < columns; j += kLanes) factor += slopes(j);
    keyGradients(f);
    queryGradients(h, f, state);
    if (share) addToState(*share);
    return factor;
  }

  // u of kLanes queries from j on: slopes_ become those of scores, tail_ those of products of features. Returns R.
  double slopes(int64_t j) {
    const Vec low = load(low_ + j), high = load(high_ + j), along = load(along_ + j), scale = splat(p_.scale);
    Vec total = zero();
    for (int64_t i = 0; i < keys_; ++i) {
      const Vec at = splat(static_cast<float>(i)), u = load(slopes_ + i * kChunk + j) - along;
      if (i < tailKeys_) store(tail_ + i * kChunk + j, select(at < low, u, zero()));
      const Vec w = load(weights_ + i * kChunk + j);
      const Vec wu = select((at >= low) & (at <= high) & (w != 0.0f), w * u, zero());
      store(slopes_ + i * kChunk + j, wu);
      total += wu;
    }
    const Vec each = total / load(ties_ + j);
    for (int64_t i = 0; i < keys_; ++i) {
      const Vec tie = load(tops_ + i * kChunk + j);
      float* x = slopes_ + i * kChunk + j;
      store(x, select(tie > 0.0f, load(x) - each, load(x)) * scale);
    }
    double sum = 0;  // a query that has its window alone has no R but rounding
    for (int l = 0; l < kLanes && j + l < count_; ++l)
      if (mixed_[j + l] > 0) sum += total[l];
    return sum;
  }

  void keyGradients(int64_t f) {
    addByQuery(weights_, keys_, count_, dOut_, ldV_, dValue_, isFinite(dOut_, count_ * ldV_));
    addByQuery(slopes_, keys_, count_, query_, ldK_, dKey_, isFinite(query_, count_ * ldK_));
    if (!tailKeys_) return;
    scalePhi();
    addByQuery(tail_, tailKeys_, count_, phiQuery_, ldF_, dFeature_ + f * mostTail_ * ldF_,
               isFinite(phiQuery_, count_ * ldF_));
  }
  // phiQuery_ times lambda, as the columns have it.
  void scalePhi() {
    if (linear_ == 1.0f) return;
    for (int64_t i = 0; i < count_ * ldF_; i += kLanes) store(phiQuery_ + i, load(phiQuery_ + i) * linear_);
  }

  void queryGradients(int64_t h, int64_t f, const FeatureState& state) {
    std::memset(dQuery_, 0, static_cast<size_t>(kChunk * ldK_) * sizeof(float));
    std::memset(dPhiQuery_, 0, static_cast<size_t>(kChunk * ldF_) * sizeof(float));
    addByKey(slopes_, count_, keys_, key_, ldK_, dQuery_, finiteKeys_);
    if (tailKeys_)
      addByKey(tail_, count_, tailKeys_, features(f), ldF_, dPhiQuery_, isFinite(features(f), tailKeys_ * ldF_));
    if (hasState(started())) {
      product<1>(count_, ldF_, {dOutT_, kChunk, p_.V}, stateT_, ldF_, dPhiQuery_, ldF_, true);
      for (int64_t i = 0; i < count_; ++i)
        for (int64_t c = 0; c < p_.F; c += kLanes) {
          float* x = dPhiQuery_ + i * ldF_ + c;
          store(x, fnma(splat(along_[i]), loadUpTo(state.z + c, lanesLeft(c, p_.F)), load(x)));
        }
    }
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t row = queryRow(i, h);
      std::memcpy(b_.dq + row * p_.K, dQuery_ + i * ldK_, static_cast<size_t>(p_.K) * sizeof(float));
      float* x = dPhiQuery_ + i * ldF_;
      for (int64_t c = 0; c < ldF_; c += kLanes) store(x + c, load(x + c) * linear_);
      std::memcpy(b_.dPhiQ + row * p_.F, x, static_cast<size_t>(p_.F) * sizeof(float));
    }
  }

  // What a chunk's queries add to the gradient of the state that they have seen.
  void addToState(const FeatureState& to) const {
    if (!started() && p_.begin(first_) == 0) return;
    for (int64_t i = 0; i < p_.F; ++i) {
      Vec total = zero();
      for (int64_t r = 0; r < count_; r += kLanes)
        total = fma(load(phiQueryT_ + i * kChunk + r), load(along_ + r), total);
      to.z[i] -= sum(total);
    }
    float* rows = dPhiQuery_;  // [count, ldF], free by now
    transposed(phiQueryT_, kChunk, p_.F, count_, rows, ldF_);
    product<1>(p_.F, ldV_, {rows, ldF_, count_}, dOut_, ldV_, to.S, ldV_, true);
  }

  // A chunk's dKey_, dValue_ and dFeature_ to where its keys' gradients stand.
  void addOut() const {
    for (int64_t i = 0; i < keys_; ++i) {
      const int64_t t = base_ + i;  // no cache: the position is the token
      const bool own = t >= segment_.begin;
      const int64_t row = own ? s_.row + t : t - p_.begin(segment_.begin);
      const int64_t m = segment_.memory;
      addRow(dKey_ + i * ldK_, p_.K, (own ? b_.dk : edges_.dk(m)) + (row * p_.HKV + head_) * p_.K);
      addRow(dValue_ + i * ldV_, p_.V, (own ? b_.dv : edges_.dv(m)) + (row * p_.HKV + head_) * p_.V);
      for (int64_t f = 0; f < groupF_ && i < tailKeys_; ++f)
        addRow(dFeature_ + (f * mostTail_ + i) * ldF_, p_.F,
               (own ? b_.dPhiK : edges_.dPhiK(m)) + (row * p_.HF + head_ * groupF_ + f) * p_.F);
    }
  }

  // What this segment's queries have left for the keys before it.
  void addEdges() const {
    if (segment_.begin == 0) return;
    const int64_t from = p_.begin(segment_.begin), m = segment_.memory;
    for (int64_t t = from; t < segment_.begin; ++t) {
      const int64_t row = s_.row + t, at = t - from;
      addRow(edges_.dk(m) + (at * p_.HKV + head_) * p_.K, p_.K, b_.dk + (row * p_.HKV + head_) * p_.K);
      addRow(edges_.dv(m) + (at * p_.HKV + head_) * p_.V, p_.V, b_.dv + (row * p_.HKV + head_) * p_.V);
      for (int64_t f = head_ * groupF_; f < (head_ + 1) * groupF_; ++f)
        addRow(edges_.dPhiK(m) + (at * p_.HF + f) * p_.F, p_.F, b_.dPhiK + (row * p_.HF + f) * p_.F);
    }
  }

  // Gradients of positions [from, to), which were put into the states: dv = dS^T phi, dPhi = dS v + dz.
  void throughState(int64_t from, int64_t to, const FeatureState* gradients) {
    for (int64_t at = from; at < to; at += kChunk) {
      const int64_t n = std::min(kChunk, to - at);
      rows_.values(at, at + n, value_);
      transposed(value_, ldV_, n, p_.V, valueT_, kChunk);
      std::memset(dValue_, 0, static_cast<size_t>(n * ldV_) * sizeof(float));
      for (int64_t f = 0; f < groupF_; ++f) {
        const FeatureState& d = gradients[f];
        rows_.features(at, at + n, f, phiQuery_);
        transposed(phiQuery_, ldF_, n, p_.F, phiQueryT_, kChunk);
        product<1>(n, ldV_, {phiQueryT_, kChunk, p_.F}, d.S, ldV_, dValue_, ldV_, true);
        transposed(d.S, ldV_, p_.F, p_.V, stateT_, ldF_);
        for (int64_t i = 0; i < n; ++i)
          for (int64_t c = 0; c < p_.F; c += kLanes)
            store(dPhiQuery_ + i * ldF_ + c, loadUpTo(d.z + c, lanesLeft(c, p_.F)));
        product<1>(n, ldF_, {valueT_, kChunk, p_.V}, stateT_, ldF_, dPhiQuery_, ldF_, true);
        for (int64_t i = 0; i < n; ++i)
          addRow(dPhiQuery_ + i * ldF_, p_.F, b_.dPhiK + ((s_.row + at + i) * p_.HF + head_ * groupF_ + f) * p_.F);
      }
      for (int64_t i = 0; i < n; ++i)
        addRow(dValue_ + i * ldV_, p_.V, b_.dv + ((s_.row + at + i) * p_.HKV + head_) * p_.V);
    }
  }

  const WindowLinearBackward& b_;
  const WindowLinearSegment& segment_;
  const int64_t index_, group_;
  const SegmentStates& memory_;
  const WindowLinearRows& saved_;
  const SegmentEdges& edges_;
  const int64_t stateFloats_;
  Scratch own_;
  float *states_, *slopes_, *valueT_, *dKey_, *dValue_, *dFeature_, *dOut_, *dOutT_, *dQuery_, *dPhiQuery_, *stateT_;
  alignas(64) float along_[kChunk];
  bool finiteKeys_ = true;
};

// From what every segment adds to what is behind it.
void behindSegments(const WindowLinearBackward& b, const WindowLinearPlan& plan, const SegmentStates& gradients) {
  if (!plan.states) return;
  const Split work = splitWork(b.HF, 4 * plan.states * b.F * b.V);
  parallelFor(work.tasks, b.cancel, [&](int64_t t) {
    Scratch scratch(gradients.floats());
    const FeatureState sum = gradients.split(scratch.take(gradients.floats()));
    for (int64_t f = work.begin(t); f < work.end(t); ++f)
      for (size_t i = plan.segments.size(); i-- > 0;) {
        const WindowLinearSegment& s = plan.segments[i];
        if (s.memory < 0) continue;
        const int64_t row = s.sequence->state * b.HF + f;
        if (s.last)
          takeState(b, b.dFinalState ? b.dFinalState + row * b.F * b.V : nullptr,
                    b.dFinalZ ? b.dFinalZ + row * b.F : nullptr, sum);
        const FeatureState own = gradients.at(s.memory, f);
        for (int64_t c = 0; c < b.F * padded(b.V); c += kLanes) {
          const Vec behind = load(sum.S + c);
          store(sum.S + c, behind + load(own.S + c));
          store(own.S + c, behind);
        }
        for (int64_t c = 0; c < b.F; ++c) {
          const float behind = sum.z[c];
          sum.z[c] = behind + own.z[c];
          own.z[c] = behind;
        }
      }
  });
}

}  // namespace

void windowLinearAttentionBackward(const WindowLinearBackward& b) {
  const WindowLinearPlan plan(b);
  const int64_t group = b.HF / b.HKV, rows = plan.tokens * b.H;
  const SegmentStates states(b, plan), gradients(b, plan);
  const SegmentEdges edges(b, plan);
  Scratch scratch(2 * alignFloats(rows));
  std::vector<double> factors(plan.segments.size() * static_cast<size_t>(b.H), 0.0);
  WindowLinearRows saved{scratch.take(rows), scratch.take(rows), factors.data()};
  startStates(b, plan, states);
  forSegments(b, plan, [&](const WindowLinearSegment& s, int64_t head) {
    std::vector<FeatureState> share;
    for (int64_t f = 0; f < group && s.memory >= 0; ++f) share.push_back(gradients.at(s.memory, head * group + f));
    WindowLinearGradient(b, s, &s - plan.segments.data(), head, states, saved, edges)
        .forwards(share.empty() ? nullptr : share.data());
  });
  behindSegments(b, plan, gradients);
  forSegments(b, plan, [&](const WindowLinearSegment& s, int64_t head) {
    Scratch own(group * states.floats());
    std::vector<FeatureState> behind;
    const auto rowOf = [&](int64_t f) { return s.sequence->state * b.HF + head * group + f; };
    for (int64_t f = 0; f < group; ++f) {
      if (s.memory >= 0) {
        behind.push_back(gradients.at(s.memory, head * group + f));
        continue;
      }
      behind.push_back(states.split(own.take(states.floats())));
      takeState(b, b.dFinalState ? b.dFinalState + rowOf(f) * b.F * b.V : nullptr,
                b.dFinalZ ? b.dFinalZ + rowOf(f) * b.F : nullptr, behind.back());
    }
    WindowLinearGradient(b, s, &s - plan.segments.data(), head, states, saved, edges).backwards(behind.data());
    for (int64_t f = 0; f < group && s.begin == 0 && b.dInitialState; ++f)
      giveState(b, behind[static_cast<size_t>(f)], b.dInitialState + rowOf(f) * b.F * b.V,
                b.dInitialZ + rowOf(f) * b.F);
  });
  for (int64_t h = 0; h < b.H && b.dWindowFactors; ++h) {
    double total = 0;
    for (size_t i = 0; i < plan.segments.size(); ++i)
      total += factors[i * static_cast<size_t>(b.H) + static_cast<size_t>(h)];
    const double x = b.windowFactors[h];
    b.dWindowFactors[h] = static_cast<float>(b.affine ? total : total / (1 + std::exp(x)));
  }
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
