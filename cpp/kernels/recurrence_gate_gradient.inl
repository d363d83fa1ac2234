// The gradient of a piece's gates. dg_t is the row's product of what the state holds before t and what it owes from t
// on, which can be had in two ways.
//
// As the sum over all paths that cross t, from S0 or a write before t to DC or a read at or after t: every term is a
// product with its decay, so nothing cancels however strong the gates are.
// Or by what the paths of one token add: dg_t = dg_(t+1) + q_t dq_t + k (dk of reads - dk of writes). No pairs of
// tokens, but an absolute error of an ulp of what is added: for gates that leave most of the state only.
namespace rankone {
namespace RANKONE_ISA_NS {

// Rows of ld: queries and keys of reads with the decay up to them, keys of writes with what remains of it, and what
// they are multiplied with. X, Xk: S0 dO, S0 dp by token and step; Y: DC u; M: [steps][kGramLd], of writes by reads.
struct GatePaths {
  int tokens, n;
  int64_t ld;
  const float *q, *kRead, *kWrite, *X, *Xk, *Y;
  const float *M1, *M2;
  const float* through;  // [ld] from S0 to DC

  Vec at(const float* rows, int64_t row, int64_t i) const { return load(rows + row * ld + i); }
};

// dg[t][i], rows of p.ld. X, Xk and Y without what the piece's steps owe each other.
template <class Update>
void gatePathSums(const GatePaths& p, float* dg) {
  const int n = p.n;
  Vec sums[kMaxChunkSteps];
  for (int64_t i = 0; i < p.ld; i += kLanes) {
    Vec ends = load(p.through + i), total = zero();
    for (int t = p.tokens - 1; t >= 0; --t) {  // from S0 to reads at or after t
      total = fma(p.at(p.q, t, i), p.at(p.X, t, i), total);
      for (int s = t * n; s < (t + 1) * n && Update::kDelta; ++s)
        total = fma(p.at(p.kRead, s, i), p.at(p.Xk, s, i), total);
      sums[t] = total;
    }
    for (int t = 0; t < p.tokens; ++t) {  // from S0 and from writes before t to DC
      sums[t] += ends;
      for (int s = t * n; s < (t + 1) * n; ++s) ends = fma(p.at(p.kWrite, s, i), p.at(p.Y, s, i), ends);
    }
    for (int j = 0; j < (p.tokens - 1) * n; ++j) {  // from write j to reads of later tokens
      const Vec key = p.at(p.kWrite, j, i);
      const float *m1 = p.M1 + j * kGramLd, *m2 = p.M2 + j * kGramLd;
      Vec paths = zero();
      for (int t = p.tokens - 1; t > j / n; --t) {
        paths = fma(splat(m1[t]), p.at(p.q, t, i), paths);
        for (int s = t * n; s < (t + 1) * n && Update::kDelta; ++s)
          paths = fma(splat(m2[s]), p.at(p.kRead, s, i), paths);
        sums[t] = fma(key, paths, sums[t]);
      }
    }
    for (int t = 0; t < p.tokens; ++t) store(dg + t * p.ld + i, sums[t]);
  }
}

inline float rowDot(const float* a, const float* b, int64_t n) {
  Vec s = zero();
  for (int64_t i = 0; i < n; i += kLanes) s = fma(load(a + i), load(b + i), s);
  return sum(s);
}

// The same summed over i, dg[t]. G: [steps][kGramLd], the keys of writes times [queries | keys] of reads, as M1 | M2.
template <class Update>
void gatePathTotals(const GatePaths& p, const float* G, int64_t half, float* dg) {
  const int n = p.n, tokens = p.tokens;
  double ends = 0, total = 0;
  for (int64_t i = 0; i < p.ld; ++i) ends += static_cast<double>(p.through[i]);
  double sums[kMaxChunkSteps];
  for (int t = tokens - 1; t >= 0; --t) {
    total += static_cast<double>(rowDot(p.q + t * p.ld, p.X + t * p.ld, p.ld));
    for (int s = t * n; s < (t + 1) * n && Update::kDelta; ++s)
      total += static_cast<double>(rowDot(p.kRead + s * p.ld, p.Xk + s * p.ld, p.ld));
    sums[t] = total;
  }
  for (int t = 0; t < tokens; ++t) {
    sums[t] += ends;
    for (int s = t * n; s < (t + 1) * n; ++s)
      ends += static_cast<double>(rowDot(p.kWrite + s * p.ld, p.Y + s * p.ld, p.ld));
  }
  // Lane l: from writes of the tokens so far to read l.
  constexpr int kMost = kGramLd / kLanes;
  Vec paths[kMost];
  for (int x = 0; x < kMost; ++x) paths[x] = zero();
  float lanes[kLanes];
  for (int l = 0; l < kLanes; ++l) lanes[l] = static_cast<float>(l);
  const Vec lane = load(lanes);
  const int64_t across = half + (Update::kDelta ? roundUp(tokens * n, kLanes) : 0);
  for (int t = 1; t < tokens; ++t) {
    Vec later = zero();
    for (int64_t l = 0; l < across; l += kLanes) {
      Vec& path = paths[l / kLanes];
      for (int j = (t - 1) * n; j < t * n; ++j)
        path = fma(load(p.M1 + j * kGramLd + l), load(G + j * kGramLd + l), path);
      const int64_t first = l < half ? t - l : t * n - (l - half);  // lanes from here on read at t or later
      later += select(lane < static_cast<float>(first), zero(), path);
    }
    sums[t] += static_cast<double>(sum(later));
  }
  for (int t = 0; t < tokens; ++t) dg[t] = static_cast<float>(sums[t]);
}

}  // namespace RANKONE_ISA_NS
}  // namespace rankone
