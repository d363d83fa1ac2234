// What stands between A and B: bias, activation, mixing and scale of a row's few ranks. Part of lora.inl and
// lora_backward.inl.
namespace rankone {
namespace RANKONE_ISA_NS {

// Which ranks SelfTopK lets pass, and their softmax: weights[i], 0 for the others. |t| for the caller's use.
inline double selfGates(const float* t, int64_t ranks, int64_t active, float* weights) {
  double square = 0;
  for (int64_t i = 0; i < ranks; ++i) square += static_cast<double>(t[i]) * t[i];
  const double norm = __builtin_sqrt(square);
  for (int64_t i = 0; i < ranks; ++i) weights[i] = 0;
  if (!(norm > 0)) {
    if (norm != norm)
      for (int64_t i = 0; i < ranks; ++i) weights[i] = static_cast<float>(norm);
    return norm;
  }
  // the largest one after the other: a NaN never gets here, as the norm would be one
  float total = 0, top = 0;
  const int64_t count = std::min(active, ranks);
  for (int64_t n = 0; n < count; ++n) {
    int64_t best = -1;
    for (int64_t i = 0; i < ranks; ++i)
      if (weights[i] == 0 && (best < 0 || t[i] > t[best])) best = i;
    const float share = static_cast<float>(t[best] / norm);
    if (n == 0) top = share;
    weights[best] = __builtin_expf(share - top);
    total += weights[best];
  }
  for (int64_t i = 0; i < ranks; ++i) weights[i] /= total;
  return norm;
}

// The normal distribution's share below p. 1 + erf would lose what is left of it far below zero.
inline float normalBelow(float p) { return 0.5f * __builtin_erfcf(p * -0.70710678f); }

// p = phi(t + a). p may not be t.
// weights: scratch of as many.
inline void activateRanks(const LoraAdapter& a, const float* t, float* p, float* weights) {
  const int64_t n = a.rank;
  for (int64_t i = 0; i < n; ++i) p[i] = a.rankBias ? t[i] + a.rankBias[i] : t[i];
  switch (a.activation) {
    case RankActivation::None: return;
    case RankActivation::Relu:
      for (int64_t i = 0; i < n; ++i) p[i] = p[i] < 0 ? 0.0f : p[i];
      return;
    case RankActivation::Gelu:
      for (int64_t i = 0; i < n; ++i) p[i] = p[i] * normalBelow(p[i]);
      return;
    case RankActivation::Silu:
      for (int64_t i = 0; i < n; ++i) p[i] = p[i] / (1.0f + __builtin_expf(-p[i]));
      return;
    case RankActivation::SelfTopK:
      selfGates(p, n, a.activeRanks, weights);
      for (int64_t i = 0; i < n; ++i) p[i] = weights[i] == 0 ? 0.0f : weights[i] * p[i];
      return;
  }
}

// z = M p, midRank of them. z may not be p.
inline void mixRanks(const LoraAdapter& a, const float* p, float* z) {
  if (!a.mid) {
    for (int64_t i = 0; i < a.rank; ++i) z[i] = a.midDiagonal ? a.midDiagonal[i] * p[i] : p[i];
    return;
  }
  for (int64_t i = 0; i < a.midRank; ++i) {
    const float* row = a.mid + i * a.rank;
    Vec acc = zero();
    int64_t j = 0;
    for (; j + kLanes <= a.rank; j += kLanes) acc = fma(load(row + j), load(p + j), acc);
    if (j < a.rank) {
      const int rest = static_cast<int>(a.rank - j);
      acc = fma(loadPart(row + j, rest), loadPart(p + j, rest), acc);
    }
    z[i] = sum(acc);
  }
}

// w = factor M phi(t + a): what B is multiplied by. One copy of the code, so that every row gets the same bits.
// scratch: the adapter's rank and midRank, twice.
inline __attribute__((noinline)) void finishRanks(const LoraAdapter& a, const float* t, float factor, float* w,
                                                  float* scratch) {
  const int64_t most = std::max(a.rank, a.midRank);
  float *p = scratch, *z = scratch + most;
  const float* last = t;
  if (a.rankBias || a.activation != RankActivation::None) {
    activateRanks(a, t, p, z);
    last = p;
  }
  if (a.mid || a.midDiagonal) {
    mixRanks(a, last, z);
    last = z;
  }
  for (int64_t i = 0; i < a.midRank; ++i) w[i] = factor * last[i];
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
