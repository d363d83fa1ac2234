// S_r = M_r S_(r-1) + N_r from one segment to the next, and in reverse D_(r-1) = M_r^T D_r + dS_(r-1): the only work
// of a sequence cut into segments that has an order. Split over heads and column blocks; sums over K run upwards, in
// stretches, so that bits depend on the segments alone. 2 K K V operations a matrix. Sun et al. 2025 (LASP-2).
#include "kernels/recurrence_passes.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// to = add + M from, or M^T from; columns of one block, [K][kBlock].
template <bool kTransposed>
void applyTransition(const SegmentChain& a, int64_t r, int64_t head, const float* from, const float* add, float* to) {
  const float* M = a.transitions + (r * a.heads + head) * a.transitionSize();
  if (a.kind != Transition::Matrix) {
    for (int64_t i = 0; i < a.K; ++i) {
      const float by = a.kind == Transition::Scalar ? M[0] : M[i];
      for (int e = 0; e < kVecs; ++e) {
        const int64_t at = i * kBlock + e * kLanes;
        store(to + at, rescaled(load(from + at), by) + load(add + at));
      }
    }
    return;
  }
  const int64_t across = kTransposed ? 1 : a.K, along = kTransposed ? a.K : 1;
  for (int64_t i = 0; i < a.K; ++i) {
    Vec all[kVecs];
    for (int e = 0; e < kVecs; ++e) all[e] = load(add + i * kBlock + e * kLanes);
    inStretches(a.K, [&](int64_t j0, int64_t j1) {
      Vec sum[kVecs] = {};
      for (int64_t j = j0; j < j1; ++j) {
        const float factor = M[i * across + j * along];
        if (factor == 0.0f) continue;  // nothing is kept, whatever it was
        const Vec m = splat(factor);
        for (int e = 0; e < kVecs; ++e) sum[e] = fma(m, load(from + j * kBlock + e * kLanes), sum[e]);
      }
      for (int e = 0; e < kVecs; ++e) all[e] += sum[e];
    });
    for (int e = 0; e < kVecs; ++e) store(to + i * kBlock + e * kLanes, all[e]);
  }
}

// f(head, column block, three blocks of scratch)
template <class F>
void overBlocks(const SegmentChain& a, F&& f) {
  const int64_t blocks = (a.V + kBlock - 1) / kBlock;
  parallelFor(a.heads * blocks, a.cancel, [&](int64_t task) {
    Scratch scratch(3 * alignFloats(a.K * kBlock));
    float* block[3];
    for (float*& x : block) x = scratch.take(a.K * kBlock);
    f(task / blocks, task % blocks, block);
  });
}

// Of segment r and head: M's gradient is dS_r S_(r-1)^T, or what of it a diagonal or a scalar is.
void transitionGradient(const SegmentGradients& a, int64_t r, int64_t head) {
  const int64_t size = a.transitionSize();
  float* to = a.dTransitions + (r * a.heads + head) * size;
  if (r == 0 && !a.initialState) {
    std::memset(to, 0, static_cast<size_t>(size) * sizeof(float));
    return;
  }
  const float *S = a.initialStates + a.state(r, head), *D = a.dStates + a.state(r, head);
  const auto rowDot = [&](int64_t i, int64_t j) {
    Vec s = zero();
    for (int64_t c = 0; c < a.V; c += kLanes) {
      const int lanes = static_cast<int>(a.V - c < kLanes ? a.V - c : kLanes);
      s = fma(loadUpTo(D + i * a.V + c, lanes), loadUpTo(S + j * a.V + c, lanes), s);
    }
    return sum(s);
  };
  double total = 0;
  for (int64_t i = 0; i < a.K; ++i) {
    if (a.kind == Transition::Scalar) total += static_cast<double>(rowDot(i, i));
    if (a.kind == Transition::Diagonal) to[i] = rowDot(i, i);
    for (int64_t j = 0; j < a.K && a.kind == Transition::Matrix; ++j) to[i * a.K + j] = rowDot(i, j);
  }
  if (a.kind == Transition::Scalar) *to = static_cast<float>(total);
}

}  // namespace

void composeStates(const SegmentStates& a) {
  overBlocks(a, [&](int64_t head, int64_t block, float** x) {
    float *S = x[0], *next = x[1], *N = x[2];
    if (a.initialState)
      loadBlock(a.initialState + head * a.K * a.V, a.K, a.V, block, S);
    else
      std::memset(S, 0, static_cast<size_t>(a.K * kBlock) * sizeof(float));
    for (int64_t r = 0; r < a.R; ++r) {
      if (a.cancel && a.cancel->load(std::memory_order_relaxed)) return;
      storeBlock(S, a.K, a.V, block, a.initialStates + a.state(r, head));
      loadBlock(a.states + a.state(r, head), a.K, a.V, block, N);
      float* const before = S;
      if (r == 0 && !a.initialState) {
        S = N;
        N = before;
      } else {
        applyTransition<false>(a, r, head, S, N, next);
        S = next;
        next = before;
      }
    }
    storeBlock(S, a.K, a.V, block, a.finalState + head * a.K * a.V);
  });
}

void composeStatesBackward(const SegmentGradients& a) {
  overBlocks(a, [&](int64_t head, int64_t block, float** x) {
    float *D = x[0], *next = x[1], *own = x[2];
    if (a.dFinalState)
      loadBlock(a.dFinalState + head * a.K * a.V, a.K, a.V, block, D);
    else
      std::memset(D, 0, static_cast<size_t>(a.K * kBlock) * sizeof(float));
    for (int64_t r = a.R - 1; r >= 0; --r) {
      if (a.cancel && a.cancel->load(std::memory_order_relaxed)) return;
      storeBlock(D, a.K, a.V, block, a.dStates + a.state(r, head));
      if (r == 0 && !a.dInitialState) return;
      loadBlock(a.dInitialStates + a.state(r, head), a.K, a.V, block, own);
      float* const before = D;
      if (r == a.R - 1 && !a.dFinalState) {
        D = own;
        own = before;
      } else {
        applyTransition<true>(a, r, head, D, own, next);
        D = next;
        next = before;
      }
    }
    if (a.dInitialState) storeBlock(D, a.K, a.V, block, a.dInitialState + head * a.K * a.V);
  });
  if (!a.dTransitions) return;
  parallelFor(a.R * a.heads, a.cancel, [&](int64_t task) { transitionGradient(a, task / a.heads, task % a.heads); });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
