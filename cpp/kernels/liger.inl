// Row by row: phi(x) = softmax(x) of queries and keys, log gates g = logsigmoid(k) / normalizer, and keys, gates and
// values repeated for the heads that share them. Their gradients are summed over those heads in ascending order.
// Limit: memory bandwidth. Lan et al., "Liger: Linearizing large language models to gated recurrent structures" (2025,
// arXiv:2503.01496).
#include "kernels/elementwise.inl"

namespace rankone {
namespace RANKONE_ISA_NS {
namespace {

// One row of n, in place. Exponentials are summed by lane, then over the lanes.
inline void softmaxRow(float* x, int64_t n) {
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
  Vec total = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    const Vec e = exp(get(x + i, lanes) - most);
    put(x + i, e, lanes);
    total += get(x + i, lanes);
  }
  const Vec share = splat(1 / sum(total));
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    put(x + i, get(x + i, lanes) * share, lanes);
  }
}

// to += y (d - y . d) with y a softmax.
inline void addThroughSoftmax(const float* y, const float* d, int64_t n, float* to) {
  Vec along = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    along = fma(get(y + i, lanes), get(d + i, lanes), along);
  }
  const Vec mean = splat(sum(along));
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanesLeft(i, n);
    put(to + i, fma(get(y + i, lanes), get(d + i, lanes) - mean, get(to + i, lanes)), lanes);
  }
}

template <class F>
void forRows(int64_t rows, int64_t cost, const CancelFlag* cancel, F&& f) {
  const Split work = splitWork(rows, cost);
  parallelFor(work.tasks, cancel, [&](int64_t t) {
    for (int64_t i = work.begin(t); i < work.end(t); ++i) f(i);
  });
}

}  // namespace

void ligerPrepare(const LigerArgs& a) {
  const int64_t group = a.H / a.HKV;
  forRows(a.rows, 20 * a.H * (a.K + a.V), a.cancel, [&](int64_t row) {
    for (int64_t h = 0; h < a.H; ++h) {
      float* q = a.phiQ + (row * a.H + h) * a.K;
      widen(a.q.data, a.q.dtype, (row * a.H + h) * a.K, a.K, q);
      softmaxRow(q, a.K);
      const int64_t shared = row * a.HKV + h / group;
      float *k = a.phiK + (row * a.H + h) * a.K, *g = a.g + (row * a.H + h) * a.K;
      if (h % group) {
        std::memcpy(k, k - a.K, static_cast<size_t>(a.K) * sizeof(float));
        std::memcpy(g, g - a.K, static_cast<size_t>(a.K) * sizeof(float));
      } else {
        widen(a.k.data, a.k.dtype, shared * a.K, a.K, k);
        for (int64_t i = 0; i < a.K; i += kLanes) {
          const int lanes = lanesLeft(i, a.K);
          put(g + i, softplus(-get(k + i, lanes)) * (-1 / a.normalizer), lanes);
        }
        softmaxRow(k, a.K);
      }
      widen(a.v.data, a.v.dtype, shared * a.V, a.V, a.values + (row * a.H + h) * a.V);
    }
  });
}

void ligerGradients(const LigerBackwardArgs& b) {
  const LigerArgs& a = b.forward;
  const int64_t group = a.H / a.HKV;
  forRows(a.rows, 12 * a.H * (a.K + a.V), a.cancel, [&](int64_t row) {
    Scratch scratch(alignFloats(a.K));
    float* key = scratch.take(a.K);
    for (int64_t shared = 0; shared < a.HKV; ++shared) {
      const int64_t at = row * a.HKV + shared;
      float *dk = b.dk + at * a.K, *dv = b.dv + at * a.V;
      widen(a.k.data, a.k.dtype, at * a.K, a.K, key);
      for (int64_t h = shared * group; h < (shared + 1) * group; ++h) {
        const int64_t own = row * a.H + h;
        addThroughSoftmax(a.phiQ + own * a.K, b.dPhiQ + own * a.K, a.K, b.dq + own * a.K);
        addThroughSoftmax(a.phiK + own * a.K, b.dPhiK + own * a.K, a.K, dk);
        for (int64_t i = 0; i < a.K; i += kLanes) {
          const int lanes = lanesLeft(i, a.K);
          const Vec slope = sigmoid(-get(key + i, lanes)) * (1 / a.normalizer);
          put(dk + i, fma(slope, get(b.dG + own * a.K + i, lanes), get(dk + i, lanes)), lanes);
        }
        for (int64_t i = 0; i < a.V; i += kLanes) {
          const int lanes = lanesLeft(i, a.V);
          put(dv + i, get(dv + i, lanes) + get(b.dValues + own * a.V + i, lanes), lanes);
        }
      }
    }
  });
}

void ligerMix(const LigerMixArgs& m) {
  constexpr int64_t kBlock = 4096;
  withDType(m.dtype, [&](auto d) {
    using D = decltype(d);
    forRows((m.size + kBlock - 1) / kBlock, 4 * kBlock, m.cancel, [&](int64_t block) {
      const int64_t end = std::min(m.size, (block + 1) * kBlock);
      for (int64_t i = block * kBlock; i < end; i += kLanes) {
        const int lanes = lanesLeft(i, end);
        put<D>(elements<D>(m.y, i), fma(splat(m.a), get(m.first + i, lanes), get(m.second + i, lanes) * m.b), lanes);
      }
    });
  });
}

void ligerScale(const LigerScaleArgs& s) {
  constexpr int64_t kBlock = 4096;
  withDType(s.x.dtype, [&](auto d) {
    using D = decltype(d);
    forRows((s.size + kBlock - 1) / kBlock, 2 * kBlock, s.cancel, [&](int64_t block) {
      const int64_t end = std::min(s.size, (block + 1) * kBlock);
      for (int64_t i = block * kBlock; i < end; i += kLanes) {
        const int lanes = lanesLeft(i, end);
        put(s.y + i, get<D>(elements<D>(s.x.data, i), lanes) * s.by, lanes);
      }
    });
  });
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
