#include "lora_reference.h"

#include "native/lora_formulas.h"

namespace rankone::test {
namespace {

// One row's adapter in one place.
void addAdapter(const HostLora& p, int64_t m, int64_t j, const Values& mask, int64_t tRanks, LoraReference& r) {
  const int32_t slot = p.slots[m * p.perRow + j];
  const HostAdapter& s = p.adapters[slot];
  LoraAdapterGradients& d = r.adapters[slot];
  const double *x = &p.x.values[m * p.in], *g = p.dY.bytes.empty() ? nullptr : &p.dY.values[m * p.out];
  const int64_t R = s.rank, Q = s.midRank;
  Values t(R), pre(R), h, dp, z(Q), u(Q), w(p.out), dh(R);
  for (int64_t i = 0; i < R; ++i) {
    if (!s.aIndex.empty()) t[i] = mask[s.aIndex[i]] * x[s.aIndex[i]];
    for (int64_t k = 0; s.aIndex.empty() && k < p.in; ++k) t[i] += s.a.values[i * p.in + k] * mask[k] * x[k];
    r.t[(m * p.perRow + j) * tRanks + i] = t[i];
    pre[i] = t[i] + (s.rankBias.empty() ? 0.0 : s.rankBias[i]);
  }
  activate(static_cast<Phi>(s.activation), s.activeRanks, pre, dh, h, dp);
  for (int64_t q = 0; q < Q; ++q) {
    if (s.mid.empty()) z[q] = s.midDiagonal.empty() ? h[q] : s.midDiagonal[q] * h[q];
    for (int64_t i = 0; !s.mid.empty() && i < R; ++i) z[q] += s.mid[q * R + i] * h[i];
    if (!s.bIndex.empty()) w[s.bIndex[q]] += z[q];
    for (int64_t n = 0; s.bIndex.empty() && n < p.out; ++n) w[n] += s.b.values[n * Q + q] * z[q];
  }
  const double gate = p.gates.empty() ? 1 : p.gates[m * p.perRow + j], factor = gate * s.scale;
  for (int64_t n = 0; n < p.out; ++n) {
    if (!s.outBias.empty()) w[n] += s.outBias[n];
    r.y[m * p.out + n] += factor * w[n];
  }
  if (!g) return;

  double dot = 0;
  for (int64_t n = 0; n < p.out; ++n) {
    dot += g[n] * w[n];
    if (!s.outBias.empty()) d.outBias[n] += factor * g[n];
    for (int64_t q = 0; s.bIndex.empty() && q < Q; ++q) {
      d.b[n * Q + q] += g[n] * factor * z[q];
      u[q] += s.b.values[n * Q + q] * g[n];
    }
  }
  for (int64_t q = 0; !s.bIndex.empty() && q < Q; ++q) u[q] = g[s.bIndex[q]];
  r.dGates[m * p.perRow + j] += s.scale * dot;
  d.scale += gate * dot;
  for (int64_t q = 0; q < Q; ++q)
    for (int64_t i = 0; i < R; ++i) {
      if (!s.mid.empty()) {
        dh[i] += s.mid[q * R + i] * factor * u[q];
        d.mid[q * R + i] += factor * u[q] * h[i];
      } else if (q == i) {
        dh[i] += (s.midDiagonal.empty() ? 1.0 : s.midDiagonal[i]) * factor * u[i];
        if (!s.midDiagonal.empty()) d.mid[i] += factor * u[i] * h[i];
      }
    }
  activate(static_cast<Phi>(s.activation), s.activeRanks, pre, dh, h, dp);
  double* dx = &r.dx[m * p.in];
  for (int64_t i = 0; i < R; ++i) {
    if (!s.rankBias.empty()) d.rankBias[i] += dp[i];
    if (!s.aIndex.empty()) dx[s.aIndex[i]] += mask[s.aIndex[i]] * dp[i];
    for (int64_t k = 0; s.aIndex.empty() && k < p.in; ++k) {
      dx[k] += mask[k] * s.a.values[i * p.in + k] * dp[i];
      d.a[i * p.in + k] += dp[i] * mask[k] * x[k];
    }
  }
}

}  // namespace

LoraReference loraReference(const HostLora& p, int64_t tRanks) {
  LoraReference r;
  const bool backward = !p.dY.bytes.empty();
  r.y = Values(p.rows * p.out);
  r.t = Values(p.rows * p.perRow * tRanks);
  if (backward) {
    r.dx = Values(p.rows * p.in);
    r.dGates = Values(p.rows * p.perRow);
    r.dBias = Values(p.out);
  }
  for (const HostAdapter& a : p.adapters) {
    LoraAdapterGradients d;
    d.a = Values(a.aIndex.empty() ? a.rank * p.in : 0);
    d.b = Values(a.bIndex.empty() ? p.out * a.midRank : 0);
    d.mid = Values(!a.mid.empty() ? a.midRank * a.rank : a.midDiagonal.size());
    d.rankBias = Values(a.rankBias.size());
    d.baseScale = Values(a.baseScale.size());
    d.outBias = Values(a.outBias.size());
    r.adapters.push_back(d);
  }
  const double kept = 1 / (1 - p.dropout);
  for (int64_t m = 0; m < p.rows; ++m) {
    const double *x = &p.x.values[m * p.in], *g = backward ? &p.dY.values[m * p.out] : nullptr;
    double* dx = backward ? &r.dx[m * p.in] : nullptr;
    const int32_t first = p.slots.empty() ? -1 : p.slots[m * p.perRow];
    const bool scaled = first >= 0 && !p.adapters[first].baseScale.empty();
    for (int64_t n = 0; n < p.out; ++n) {
      const double scale = scaled ? p.adapters[first].baseScale[n] : 1;
      double z = p.identity ? x[n] : 0;
      for (int64_t k = 0; p.hasBase && k < p.in; ++k) z += p.base.values[n * p.in + k] * x[k];
      r.y[m * p.out + n] = scale * z + (p.bias.bytes.empty() ? 0.0 : p.bias.values[n]);
      if (!backward) continue;
      if (p.identity) dx[n] += scale * g[n];
      for (int64_t k = 0; p.hasBase && k < p.in; ++k) dx[k] += p.base.values[n * p.in + k] * scale * g[n];
      r.dBias[n] += g[n];
      if (scaled) r.adapters[first].baseScale[n] += g[n] * z;
    }
    if (p.slots.empty()) continue;
    Values mask(p.in, 1);
    for (int64_t k = 0; p.dropout > 0 && k < p.in; ++k)
      mask[k] = philoxWord(p.seed, m, k) >= p.dropout * 4294967296.0 ? kept : 0;
    for (int64_t j = 0; j < p.perRow; ++j)
      if (p.slots[m * p.perRow + j] >= 0) addAdapter(p, m, j, mask, tRanks, r);
  }
  return r;
}

}  // namespace rankone::test
