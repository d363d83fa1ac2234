// A chunk of windowLinearAttention: the queries of kChunk tokens of a head, and the keys from the first one's window to
// the last one's position. Scores stand as [keys, kChunk], a query to a lane. Part of window_linear.inl.
#include "kernels/attention_common.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

constexpr int64_t kChunk = 32;
constexpr int64_t kSegment = 512, kSegments = 16;  // tokens of a task at least; tasks of a sequence where it has them

// S [F, padded(V)] and z [padded(F)] of a head of features.
struct FeatureState {
  float *S, *z;
};
inline int64_t featureStateFloats(const WindowLinearArgs& p) { return p.F * padded(p.V) + alignFloats(padded(p.F)); }

// Tokens [begin, end) of a sequence, a task for every head of keys. States of a sequence that has several stand in
// memory of the call, one to a segment and head of features.
struct WindowLinearSegment {
  const WindowLinearSequence* sequence;
  int64_t begin, end;
  int64_t memory;  // of its states; -1: it is the only one of its sequence
  bool last;
};

struct WindowLinearPlan {
  std::vector<WindowLinearSegment> segments;
  int64_t states = 0, tokens = 0, cost = 0;

  explicit WindowLinearPlan(const WindowLinearArgs& p) {
    const int64_t parts = std::max<int64_t>(1, kSegments / p.HKV);
    for (const WindowLinearSequence& s : *p.sequences) {
      tokens += s.T;
      const int64_t least = std::max(kSegment, std::min(s.seen + s.T, p.reach()));
      const int64_t step = roundUp(std::max(least, (s.T + parts - 1) / parts), kChunk);
      const bool several = step < s.T;
      for (int64_t begin = 0; begin == 0 || begin < s.T; begin += step)
        segments.push_back(
            {&s, begin, std::min(s.T, begin + step), several ? states++ : int64_t{-1}, begin + step >= s.T});
    }
    const int64_t keys = std::min(tokens, p.reach()) + kChunk, group = p.H / p.HKV;
    const double each = 2.0 * static_cast<double>(group) * static_cast<double>(keys * (p.K + p.V) + 2 * p.F * p.V);
    cost = static_cast<int64_t>(
        std::min(1e15, each * static_cast<double>(tokens) / static_cast<double>(std::max<size_t>(1, segments.size()))));
  }
};

// The least window factor: so small that it is lost beside any linear part, and whose inverse leaves float32 room for
// the gradients of a query that has no linear part.
constexpr float kLeastFactor = 1e-30f;

struct WindowWeight {
  float window = 1, linear = 1;
  WindowWeight(const WindowLinearArgs& p, int64_t head) {
    if (!p.windowFactors) return;
    const double x = p.windowFactors[head];
    window = std::max(static_cast<float>(1 / (1 + std::exp(-x))), kLeastFactor);
    if (x != x) window = p.windowFactors[head];
    if (p.affine) linear = static_cast<float>(1 / (1 + std::exp(x)));
  }
};

// C [rows, columns] += A B with A(r, d) = a[d * kChunk + r]: left out where A is 0 if B is not finite.
inline void addByKey(const float* a, int64_t rows, int64_t depth, const float* b, int64_t columns, float* c,
                     bool finite) {
  if (finite)
    product<1>(rows, columns, {a, kChunk, depth}, b, columns, c, columns, true);
  else
    addSeen(a, kChunk, 1, rows, depth, b, columns, c);
}
// The same with A(r, d) = a[r * kChunk + d].
inline void addByQuery(const float* a, int64_t rows, int64_t depth, const float* b, int64_t columns, float* c,
                       bool finite) {
  if (finite)
    product<kChunk>(rows, columns, {a, 1, depth}, b, columns, c, columns, true);
  else
    addSeen(a, 1, kChunk, rows, depth, b, columns, c);
}

// Rows of one head of keys of a sequence, by position: those of the cache, then those of the tensors.
class WindowLinearKeys {
 public:
  WindowLinearKeys(const WindowLinearArgs& p, const WindowLinearSequence& s, int64_t head)
      : p_(p), s_(s), head_(head), group_(p.HF / p.HKV) {}

  void keys(int64_t from, int64_t to, float* out) const {
    rows(from, to, p_.cache.k, p_.K + group_ * p_.F, 0, p_.k, p_.dtype, p_.HKV, head_, p_.K, out);
  }
  void values(int64_t from, int64_t to, float* out) const {
    rows(from, to, p_.cache.v, p_.V, 0, p_.v, p_.dtype, p_.HKV, head_, p_.V, out);
  }
  // Of head `feature` of the group's.
  void features(int64_t from, int64_t to, int64_t feature, float* out) const {
    rows(from, to, p_.cache.k, p_.K + group_ * p_.F, p_.K + feature * p_.F, p_.phiK, p_.phiDType, p_.HF,
         head_ * group_ + feature, p_.F, out);
  }

 private:
  void rows(int64_t from, int64_t to, const void* cached, int64_t cachedWidth, int64_t offset, const void* tensor,
            DType dtype, int64_t heads, int64_t head, int64_t width, float* out) const {
    const int64_t ld = padded(width);
    for (int64_t at = from; at < to; ++at, out += ld) {
      if (ld > width) store(out + ld - kLanes, zero());
      if (at < s_.seen) {
        const int64_t row = (s_.slot * p_.HKV + head_) * p_.cache.capacity + p_.cache.rowOf(at);
        widen(cached, p_.cacheDType, row * cachedWidth + offset, width, out);
      } else {
        widen(tensor, dtype, ((s_.row + at - s_.seen) * heads + head) * width, width, out);
      }
    }
  }

  const WindowLinearArgs& p_;
  const WindowLinearSequence& s_;
  const int64_t head_, group_;
};

class WindowLinearChunk {
 public:
  WindowLinearChunk(const WindowLinearArgs& p, const WindowLinearSequence& s, int64_t head, bool backward)
      : p_(p),
        s_(s),
        head_(head),
        rows_(p, s, head),
        groupF_(p.HF / p.HKV),
        ldK_(padded(p.K)),
        ldV_(padded(p.V)),
        ldF_(padded(p.F)),
        most_(roundUp(std::min(p.reach(), s.seen + s.T) + kChunk, kLanes)),
        mostTail_(std::min(most_, roundUp(p.terraced ? kChunk + std::min(p.window, most_) : kChunk, kLanes))),
        scratch_(most_ * (ldK_ + ldV_ + kChunk) + alignFloats(p.K * most_) + mostTail_ * kChunk +
                 groupF_ * (mostTail_ * ldF_ + alignFloats(p.F * mostTail_)) + kChunk * (ldK_ + ldF_ + ldV_) +
                 alignFloats(p.K * kChunk) + alignFloats(p.F * kChunk) + 16 * 8 + (backward ? most_ * kChunk : 0)) {
    key_ = scratch_.take(most_ * ldK_);
    value_ = scratch_.take(most_ * ldV_);
    keyT_ = scratch_.take(p.K * most_);
    weights_ = scratch_.take(most_ * kChunk);
    tail_ = scratch_.take(mostTail_ * kChunk);
    phi_ = scratch_.take(groupF_ * mostTail_ * ldF_);
    phiT_ = scratch_.take(groupF_ * p.F * mostTail_);
    query_ = scratch_.take(kChunk * ldK_);
    phiQuery_ = scratch_.take(kChunk * ldF_);
    out_ = scratch_.take(kChunk * ldV_);
    queryT_ = scratch_.take(p.K * kChunk);
    phiQueryT_ = scratch_.take(p.F * kChunk);
    tops_ = backward ? scratch_.take(most_ * kChunk) : nullptr;
  }

  // Tokens [begin, end) of the sequence. Without `columns` rows alone, for attendOne().
  void takeKeys(int64_t begin, int64_t end, bool columns = true) {
    first_ = s_.seen + begin;
    count_ = end - begin;
    base_ = p_.begin(first_);
    next_ = p_.begin(first_ + count_);
    keys_ = first_ + count_ - base_;
    tailKeys_ = next_ - base_;
    rows_.keys(base_, base_ + keys_, key_);
    rows_.values(base_, base_ + keys_, value_);
    if (columns) transposed(key_, ldK_, keys_, p_.K, keyT_, most_);
    finiteValues_ = !columns || isFinite(value_, keys_ * ldV_);
    for (int64_t f = 0; f < groupF_ && tailKeys_; ++f) {
      rows_.features(base_, next_, f, features(f));
      if (columns) transposed(features(f), ldF_, tailKeys_, p_.F, featuresT(f), mostTail_);
    }
  }

  // The weights of a head's queries, their sum `total_` and sums of values `out_` [count, ldV].
  void attend(int64_t h, const FeatureState& state, bool started) {
    const WindowWeight weight(p_, h);
    linear_ = weight.linear;
    takeQueries(p_.q, p_.dtype, h, p_.K, query_, queryT_, p_.scale * kLog2e);
    takeQueries(p_.phiQ, p_.phiDType, h, p_.F, phiQuery_, phiQueryT_, weight.linear);
    const int64_t columns = roundUp(count_, kLanes), f = featureOf(h);
    product<1>(keys_, columns, {keyT_, most_, p_.K}, queryT_, kChunk, weights_, kChunk, false);
    if (tailKeys_)
      product<1>(tailKeys_, columns, {featuresT(f), mostTail_, p_.F}, phiQueryT_, kChunk, tail_, kChunk, false);
    for (int64_t j = 0; j < columns; j += kLanes) weigh(j, weight.window, started);
    std::memset(out_, 0, static_cast<size_t>(kChunk * ldV_) * sizeof(float));
    addByKey(weights_, count_, keys_, value_, ldV_, out_, finiteValues_);
    if (!hasState(started)) return;
    product<1>(count_, ldV_, {phiQueryT_, kChunk, p_.F}, state.S, ldV_, out_, ldV_, true);
    for (int64_t j = 0; j < columns; j += kLanes) {
      Vec total = zero();
      for (int64_t i = 0; i < p_.F; ++i) total = fma(load(phiQueryT_ + i * kChunk + j), splat(state.z[i]), total);
      store(total_ + j, load(total_ + j) + total);
    }
  }

  // The same of a chunk of one token, all of whose keys are in its window: rows are read as they stand, once.
  void attendOne(int64_t h, const FeatureState& state, bool started) {
    const WindowWeight weight(p_, h);
    takeRow(p_.q, p_.dtype, h, p_.K, query_, p_.scale * kLog2e);
    takeRow(p_.phiQ, p_.phiDType, h, p_.F, phiQuery_, weight.linear);
    const int64_t padding = roundUp(keys_, kLanes);
    for (int64_t i = 0; i < padding; i += 4) {
      Vec dots[4] = {zero(), zero(), zero(), zero()};
      for (int64_t c = 0; c < ldK_; c += kLanes)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          dots[j] = fma(load(query_ + c), load(key_ + std::min(i + j, keys_ - 1) * ldK_ + c), dots[j]);
      sums(dots[0], dots[1], dots[2], dots[3], weights_ + i);
    }
    for (int64_t i = keys_; i < padding; ++i) weights_[i] = kMasked;
    Vec most = splat(kMasked), total = zero();
    for (int64_t i = 0; i < padding; i += kLanes) most = larger(load(weights_ + i), most);
    const float top = largest(most), base = top == kMasked ? 0 : top;
    const float factor = hasState(started) ? weight.window : 1;
    for (int64_t i = 0; i < padding; i += kLanes) {
      const Vec w = exp2(load(weights_ + i) - base) * factor;
      store(weights_ + i, w);
      total += w;
    }
    total_[0] = sum(total);
    blend(weights_, keys_, value_, false);
    if (!hasState(started)) return;
    blend(phiQuery_, p_.F, state.S, true);
    Vec found = zero();
    for (int64_t i = 0; i < p_.F; i += kLanes)
      found = fma(load(phiQuery_ + i), loadUpTo(state.z + i, lanesLeft(i, p_.F)), found);
    total_[0] += sum(found);
  }

  // Whether any position is in the state already.
  bool hasState(bool started) const { return started || base_ > 0; }

  // Adds what leaves the windows behind this chunk.
  void fold(int64_t f, const FeatureState& state) const { fold(features(f), value_, tailKeys_, state); }
  void fold(const float* phi, const float* value, int64_t n, const FeatureState& state) const {
    if (!n) return;
    product<1>(p_.F, ldV_, {phi, ldF_, n}, value, ldV_, state.S, ldV_, true);
    for (int64_t i = 0; i < p_.F; i += kLanes) {
      Vec sum = zero();
      for (int64_t r = 0; r < n; ++r) sum += load(phi + r * ldF_ + i);
      const int lanes = lanesLeft(i, p_.F);
      put(state.z + i, get(state.z + i, lanes) + sum, lanes);
    }
  }
  // Adds positions [from, to) to the states of the group's heads of features.
  void foldRange(int64_t from, int64_t to, const FeatureState* states) {
    for (int64_t at = from; at < to; at += kChunk) {
      if (stopped()) return;
      const int64_t n = std::min(kChunk, to - at);
      rows_.values(at, at + n, value_);
      for (int64_t f = 0; f < groupF_; ++f) {
        rows_.features(at, at + n, f, features(f));
        fold(features(f), value_, n, states[f]);
      }
    }
  }

  bool stopped() const { return p_.cancel && p_.cancel->load(std::memory_order_relaxed); }
  int64_t featureOf(int64_t h) const { return (h - head_ * (p_.H / p_.HKV)) / (p_.H / p_.HF); }
  int64_t queryRow(int64_t i, int64_t h) const { return (s_.row + first_ - s_.seen + i) * p_.H + h; }

 protected:
  float* features(int64_t f) const { return phi_ + f * mostTail_ * ldF_; }
  float* featuresT(int64_t f) const { return phiT_ + f * p_.F * mostTail_; }

  void takeQueries(const void* tensor, DType dtype, int64_t h, int64_t width, float* rows, float* columns,
                   float by) const {
    const int64_t ld = padded(width), most = roundUp(count_, kLanes);
    for (int64_t i = 0; i < count_; ++i) widenRow(tensor, dtype, queryRow(i, h), width, rows + i * ld);
    std::memset(rows + count_ * ld, 0, static_cast<size_t>((most - count_) * ld) * sizeof(float));
    transposed(
        rows, ld, most, width, columns, kChunk, [by](Vec x, int64_t) __attribute__((always_inline)) { return x * by; });
  }

  void takeRow(const void* tensor, DType dtype, int64_t h, int64_t width, float* row, float by) const {
    widenRow(tensor, dtype, queryRow(0, h), width, row);
    for (int64_t i = 0; i < padded(width); i += kLanes) store(row + i, load(row + i) * by);
  }

  // out_ [0] = sum of w_i rows_i [n, ldV], or that much more.
  void blend(const float* w, int64_t n, const float* rows, bool more) const {
    constexpr int kVecs = 4;
    for (int64_t c = 0; c < ldV_; c += kVecs * kLanes) {
      const int vecs = static_cast<int>(std::min<int64_t>(kVecs, (ldV_ - c) / kLanes));
      Vec sum[kVecs];
      for (int j = 0; j < vecs; ++j) sum[j] = more ? load(out_ + c + j * kLanes) : zero();
      if (vecs == kVecs) {
        for (int64_t i = 0; i < n; ++i)
#pragma GCC unroll 4
          for (int j = 0; j < kVecs; ++j) sum[j] = fma(splat(w[i]), load(rows + i * ldV_ + c + j * kLanes), sum[j]);
      } else {
        for (int64_t i = 0; i < n; ++i)
          for (int j = 0; j < vecs; ++j) sum[j] = fma(splat(w[i]), load(rows + i * ldV_ + c + j * kLanes), sum[j]);
      }
      for (int j = 0; j < vecs; ++j) store(out_ + c + j * kLanes, sum[j]);
    }
  }

  // kLanes queries from j on. A query without anything before its window has it alone, whatever its factor.
  void weigh(int64_t j, float factor, bool started) {
    float first[kLanes], last[kLanes], factors[kLanes];
    int64_t begin = keys_, end = 0;
    for (int i = 0; i < kLanes; ++i) {
      const bool live = j + i < count_;
      const int64_t at = first_ + j + i, window = p_.begin(at);
      first[i] = live ? static_cast<float>(window - base_) : 0.0f;
      last[i] = live ? static_cast<float>(at - base_) : -1.0f;
      factors[i] = started || window > 0 ? factor : 1.0f;
      if (!live) continue;
      begin = std::min(begin, window - base_);
      end = at - base_ + 1;
    }
    const Vec low = load(first), high = load(last);
    float *s = weights_ + j, *top = tops_ ? tops_ + j : nullptr;
    const auto inside = [&](int64_t i) __attribute__((always_inline)) {
      const Vec at = splat(static_cast<float>(i));
      return (at >= low) & (at <= high);
    };
    Vec most = splat(kMasked);
    for (int64_t i = begin; i < end; ++i) {
      const Vec x = select(inside(i), load(s + i * kChunk), splat(kMasked));
      store(s + i * kChunk, x);
      most = larger(x, most);
    }
    const Vec base = select(most == kMasked, zero(), most), by = load(factors);
    Vec total = zero(), tail = zero(), ties = zero();
    for (int64_t i = begin; i < end; ++i) {
      const Vec x = load(s + i * kChunk), w = exp2(x - base) * by;
      if (top) {
        const Vec tie = select((x == most) & inside(i), splat(1.0f), zero());
        store(top + i * kChunk, tie);
        ties += tie;
      }
      store(s + i * kChunk, w);
      total += w;
    }
    for (int64_t i = 0; i < tailKeys_; ++i) {
      const Vec a = load(tail_ + i * kChunk + j);
      const bool shared = i >= begin && i < end;
      const Vec at = splat(static_cast<float>(i));
      const Vec x = select(at < low, a, shared ? load(s + i * kChunk) : zero());
      tail += select(at < low, a, zero());
      store(s + i * kChunk, x);
    }
    for (int64_t i = tailKeys_; i < begin; ++i) store(s + i * kChunk, zero());
    for (int64_t i = std::max(end, tailKeys_); i < keys_; ++i) store(s + i * kChunk, zero());
    store(total_ + j, total + tail);
    if (!top) return;
    for (int64_t i = 0; i < begin; ++i) store(top + i * kChunk, zero());
    for (int64_t i = end; i < keys_; ++i) store(top + i * kChunk, zero());
    store(ties_ + j, ties);
    store(low_ + j, low);
    store(high_ + j, high);
    for (int i = 0; i < kLanes; ++i) mixed_[j + i] = started || first[i] + static_cast<float>(base_) > 0 ? 1.0f : 0.0f;
  }

  const WindowLinearArgs& p_;
  const WindowLinearSequence& s_;
  const int64_t head_;
  const WindowLinearKeys rows_;
  const int64_t groupF_, ldK_, ldV_, ldF_, most_, mostTail_;
  Scratch scratch_;
  float *key_, *value_, *keyT_, *weights_, *tail_, *phi_, *phiT_, *query_, *phiQuery_, *out_, *queryT_, *phiQueryT_;
  float* tops_;  // 1 where a query's largest score stands
  alignas(64) float total_[kChunk], ties_[kChunk], low_[kChunk], high_[kChunk];
  float mixed_[kChunk];  // 1 where a query has something before its window
  float linear_ = 1;
  int64_t first_ = 0, count_ = 0;  // position of the first query, and how many
  int64_t base_ = 0, next_ = 0;    // position of the first key; of the first one that the next chunk will see
  int64_t keys_ = 0, tailKeys_ = 0;
  bool finiteValues_ = true;
};

// Copies between a state's memory and what a task works on.
inline void takeState(const WindowLinearArgs& p, const float* S, const float* z, const FeatureState& to) {
  const int64_t ldV = padded(p.V);
  if (!S) {
    std::memset(to.S, 0, static_cast<size_t>(p.F * ldV) * sizeof(float));
    std::memset(to.z, 0, static_cast<size_t>(p.F) * sizeof(float));
    return;
  }
  if (to.S != S)
    for (int64_t i = 0; i < p.F; ++i) widenRow(S, DType::F32, i, p.V, to.S + i * ldV);
  if (to.z != z) std::memcpy(to.z, z, static_cast<size_t>(p.F) * sizeof(float));
}
inline void giveState(const WindowLinearArgs& p, const FeatureState& from, float* S, float* z) {
  if (S == from.S) return;
  for (int64_t i = 0; i < p.F; ++i)
    std::memcpy(S + i * p.V, from.S + i * padded(p.V), static_cast<size_t>(p.V) * sizeof(float));
  std::memcpy(z, from.z, static_cast<size_t>(p.F) * sizeof(float));
}

// The memory of segments' states.
class SegmentStates {
 public:
  SegmentStates(const WindowLinearArgs& p, const WindowLinearPlan& plan)
      : p_(p), floats_(alignFloats(featureStateFloats(p))), scratch_(plan.states * p.HF * floats_) {
    memory_ = plan.states ? scratch_.take(plan.states * p.HF * floats_) : nullptr;
  }
  FeatureState at(int64_t segment, int64_t feature) const {
    return split(memory_ + (segment * p_.HF + feature) * floats_);
  }
  FeatureState split(float* memory) const { return {memory, memory + p_.F * padded(p_.V)}; }
  int64_t floats() const { return floats_; }
  void clear(const FeatureState& s) const { takeState(p_, nullptr, nullptr, s); }
  // to = to + from
  void add(const FeatureState& from, const FeatureState& to) const {
    for (int64_t i = 0; i < p_.F * padded(p_.V); i += kLanes) store(to.S + i, load(to.S + i) + load(from.S + i));
    for (int64_t i = 0; i < p_.F; ++i) to.z[i] += from.z[i];
  }

 private:
  const WindowLinearArgs& p_;
  const int64_t floats_;
  Scratch scratch_;
  float* memory_;
};

// f(segment, head of keys) for all of them in parallel.
template <class F>
void forSegments(const WindowLinearArgs& p, const WindowLinearPlan& plan, F&& f) {
  const Split work = splitWork(static_cast<int64_t>(plan.segments.size()) * p.HKV, plan.cost);
  parallelFor(work.tasks, p.cancel, [&](int64_t t) {
    for (int64_t i = work.begin(t); i < work.end(t); ++i) f(plan.segments[static_cast<size_t>(i / p.HKV)], i % p.HKV);
  });
}

// States at the beginning of every segment of sequences that have several.
inline void startStates(const WindowLinearArgs& p, const WindowLinearPlan& plan, const SegmentStates& states) {
  if (!plan.states) return;
  const int64_t group = p.HF / p.HKV;
  forSegments(p, plan, [&](const WindowLinearSegment& s, int64_t head) {
    if (s.memory < 0 || s.last) return;
    std::vector<FeatureState> to;
    for (int64_t f = 0; f < group; ++f) to.push_back(states.at(s.memory + 1, head * group + f));
    for (const FeatureState& state : to) states.clear(state);
    const int64_t seen = s.sequence->seen;
    WindowLinearChunk(p, *s.sequence, head, false).foldRange(p.begin(seen + s.begin), p.begin(seen + s.end), to.data());
  });
  const Split work = splitWork(p.HF, 4 * plan.states * p.F * p.V);
  parallelFor(work.tasks, p.cancel, [&](int64_t t) {
    for (int64_t f = work.begin(t); f < work.end(t); ++f)
      for (const WindowLinearSegment& s : plan.segments) {
        if (s.memory < 0) continue;
        if (s.begin > 0) {
          states.add(states.at(s.memory - 1, f), states.at(s.memory, f));
          continue;
        }
        const int64_t row = s.sequence->state * p.HF + f;
        takeState(p, p.initialState ? p.initialState + row * p.F * p.V : nullptr,
                  p.initialZ ? p.initialZ + row * p.F : nullptr, states.at(s.memory, f));
      }
  });
}

}  // namespace
}  // namespace RANKONE_ISA_NS
}  // namespace rankone
