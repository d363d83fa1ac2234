// Attention by softmax inside a window W(t) and by linear attention before it, under one normaliser: with
// weights
//
//     w_ti = gamma e^(scale q_t . k_i - c_t)  for i in W(t),   lambda phiQ_t . phiK_i  before it
//
// o_t is their mean of the values, c_t the largest score of the window. What lies before the windows of a chunk of
// queries is a state, S = sum of phiK_i v_i^T and z = sum of phiK_i; the few positions that only some of its queries
// have in their windows are weighed one by one. Long sequences are cut into segments by shape, whose states come from
// sums over each segment. Nothing is of size T x T.
//
// Limit: the products; per token and head 2 (w + kChunk)(K + V) flops for the window and 4 F V for the state.
// Zhang et al., "LoLCATs: On low-rank linearizing of large language models" (2024, arXiv:2410.10254).
#include "kernels/window_linear_chunk.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

class WindowLinearTask : WindowLinearChunk {
 public:
  WindowLinearTask(const WindowLinearForward& p, const WindowLinearSegment& segment, int64_t head)
      : WindowLinearChunk(p, *segment.sequence, head, false), forward_(p), segment_(segment) {}

  void run(const SegmentStates& memory) {
    const int64_t group = p_.H / p_.HKV;
    const bool whole = p_.V % kLanes == 0;  // the final state's memory will do
    Scratch scratch(groupF_ * memory.floats());
    std::vector<FeatureState> states;
    for (int64_t f = 0; f < groupF_; ++f) states.push_back(begin(f, memory, whole, scratch));
    const bool started = p_.initialState != nullptr;
    for (int64_t t = segment_.begin; t < segment_.end; t += kChunk) {
      if (stopped()) return;
      const int64_t end = std::min(t + kChunk, segment_.end);
      const bool one = end - t == 1;
      takeKeys(t, end, !one);
      for (int64_t h = head_ * group; h < (head_ + 1) * group; ++h) {
        const FeatureState& state = states[static_cast<size_t>(featureOf(h))];
        one ? attendOne(h, state, started) : attend(h, state, started);
        give(h);
      }
      if (t + kChunk < segment_.end || (segment_.last && forward_.finalState))
        for (int64_t f = 0; f < groupF_; ++f) fold(f, states[static_cast<size_t>(f)]);
    }
    if (!segment_.last || !forward_.finalState) return;
    const int64_t end = s_.seen + s_.T;
    if (forward_.foldsAll) foldRange(p_.begin(end), end, states.data());
    for (int64_t f = 0; f < groupF_; ++f) {
      const int64_t row = stateRow(f);
      giveState(p_, states[static_cast<size_t>(f)], forward_.finalState + row * p_.F * p_.V,
                forward_.finalZ + row * p_.F);
    }
  }

 private:
  int64_t stateRow(int64_t f) const { return s_.state * p_.HF + head_ * groupF_ + f; }

  FeatureState begin(int64_t f, const SegmentStates& memory, bool whole, Scratch& scratch) const {
    if (segment_.memory >= 0) return memory.at(segment_.memory, head_ * groupF_ + f);
    const int64_t row = stateRow(f);
    const FeatureState state = whole && forward_.finalState
                                   ? FeatureState{forward_.finalState + row * p_.F * p_.V, forward_.finalZ + row * p_.F}
                                   : memory.split(scratch.take(memory.floats()));
    takeState(p_, p_.initialState ? p_.initialState + row * p_.F * p_.V : nullptr,
              p_.initialZ ? p_.initialZ + row * p_.F : nullptr, state);
    return state;
  }

  void give(int64_t h) const {
    for (int64_t i = 0; i < count_; ++i) {
      const Vec by = splat(1 / total_[i]);
      float* row = out_ + i * ldV_;
      for (int64_t c = 0; c < ldV_; c += kLanes) store(row + c, load(row + c) * by);
      narrow(row, p_.V, forward_.o, forward_.oDType, queryRow(i, h) * p_.V);
    }
  }

  const WindowLinearForward& forward_;
  const WindowLinearSegment& segment_;
};

}  // namespace

void windowLinearAttention(const WindowLinearForward& p) {
  const WindowLinearPlan plan(p);
  const SegmentStates states(p, plan);
  startStates(p, plan, states);
  forSegments(p, plan, [&](const WindowLinearSegment& s, int64_t head) { WindowLinearTask(p, s, head).run(states); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone

#include "kernels/window_linear_backward.inl"
