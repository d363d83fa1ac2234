#include "lora_reference.h"

#include "lora_formulas.h"

namespace rankone::test {

PackedMatrix packMatrix(Random& random, PanelFormat format, int64_t rows, int64_t depth, double size, int width) {
  PackedMatrix m;
  m.panels = panelsOf(format, rows, depth, width);
  m.words = std::make_shared<std::vector<uint32_t>>(m.panels.wordCount());
  m.scales = std::make_shared<std::vector<float>>(m.panels.scaleCount());
  std::vector<float> dense(rows * depth);
  for (float& x : dense) x = static_cast<float>(size * random.normal());
  packDense(dense.data(), DType::F32, depth, false, m.panels, m.words->data(), m.scales->data());
  m.panels.words = m.words->data();
  m.panels.scales = m.scales->data();
  std::vector<float> row(depth);
  for (int64_t r = 0; r < rows; ++r) {
    unpackRow(m.panels, r, row.data());
    m.values.insert(m.values.end(), row.begin(), row.end());
  }
  return m;
}

LoraArgs LoraProblem::args() {
  adapters_.clear();
  pointers_.clear();
  for (const LoraSpec& s : specs) {
    const auto data = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
    LoraAdapter a;
    a.rank = s.rank;
    a.midRank = s.midRank;
    a.scale = static_cast<float>(s.scale);
    a.a = s.a.panels;
    a.b = s.b.panels;
    a.aIndex = data(s.aIndex);
    a.bIndex = data(s.bIndex);
    a.bOrder = data(s.bOrder);
    a.mid = data(s.mid);
    a.midDiagonal = data(s.midDiagonal);
    a.activation = s.activation;
    a.activeRanks = s.activeRanks;
    a.rankBias = data(s.rankBias);
    a.baseScale = data(s.baseScale);
    a.outBias = data(s.outBias);
    adapters_.push_back(a);
  }
  for (const LoraAdapter& a : adapters_) pointers_.push_back(&a);
  LoraArgs args;
  args.x = x.tensor().data;
  args.dtype = x.tensor().dtype;
  args.rows = rows;
  args.in = in;
  args.out = out;
  args.base = hasBase ? &base.panels : nullptr;
  args.identity = identity;
  if (!bias.empty()) args.bias = FloatView(bias.data());
  args.adapters = pointers_.data();
  args.slots = slots.empty() ? nullptr : slots.data();
  args.perRow = perRow;
  args.gates = gates.empty() ? nullptr : gates.data();
  args.dropout = dropout;
  args.seed = seed;
  return args;
}

LoraValues valuesOf(const LoraProblem& p) {
  LoraValues v;
  v.x = p.x.values();
  v.gates = p.gates.empty() ? Values(p.slots.size(), 1) : Values(p.gates.begin(), p.gates.end());
  const auto wide = [](const std::vector<float>& x) { return Values(x.begin(), x.end()); };
  for (const LoraSpec& s : p.specs)
    v.adapters.push_back({static_cast<float>(s.scale), s.a.values, s.b.values, wide(s.mid), wide(s.midDiagonal),
                          wide(s.rankBias), wide(s.baseScale), wide(s.outBias)});
  return v;
}

LoraReference loraReference(const LoraProblem& p, const LoraValues& v, int64_t tRanks) {
  LoraReference r;
  LoraValues& d = r.gradient;
  const auto zeros = [](const Values& like) { return Values(like.size()); };
  d.x = zeros(v.x);
  d.gates = zeros(v.gates);
  for (const auto& a : v.adapters)
    d.adapters.push_back({0, zeros(a.a), zeros(a.b), zeros(a.mid), zeros(a.midDiagonal), zeros(a.rankBias),
                          zeros(a.baseScale), zeros(a.outBias)});
  r.y = Values(p.rows * p.out);
  r.t = Values(p.rows * p.perRow * tRanks);
  r.dBias = Values(p.out);
  const Values dY = p.dY.values();
  const double kept = 1 / (1 - p.dropout);
  for (int64_t m = 0; m < p.rows; ++m) {
    const double *x = &v.x[m * p.in], *g = &dY[m * p.out];
    double *y = &r.y[m * p.out], *dx = &d.x[m * p.in];
    const int32_t first = p.slots.empty() ? -1 : p.slots[m * p.perRow];
    const bool scaled = first >= 0 && !v.adapters[first].baseScale.empty();
    for (int64_t n = 0; n < p.out; ++n) {
      const double scale = scaled ? v.adapters[first].baseScale[n] : 1;
      double z = p.identity ? x[n] : 0;
      if (p.identity) dx[n] += scale * g[n];
      for (int64_t k = 0; p.hasBase && k < p.in; ++k) {
        z += p.base.values[n * p.in + k] * x[k];
        dx[k] += p.base.values[n * p.in + k] * scale * g[n];
      }
      y[n] = scale * z + (p.bias.empty() ? 0.0 : p.bias[n]);
      r.dBias[n] += g[n];
      if (scaled) d.adapters[first].baseScale[n] += g[n] * z;
    }
    Values mask(p.in, 1);
    for (int64_t k = 0; p.dropout > 0 && k < p.in; ++k)
      mask[k] = philoxWord(p.seed, m, k) >= p.dropout * 4294967296.0 ? kept : 0;
    for (int64_t j = 0; j < p.perRow && !p.slots.empty(); ++j) {
      const int32_t slot = p.slots[m * p.perRow + j];
      if (slot < 0) continue;
      const LoraSpec& s = p.specs[slot];
      const LoraValues::Adapter& a = v.adapters[slot];
      LoraValues::Adapter& da = d.adapters[slot];
      const int64_t R = s.rank, Q = s.midRank;
      Values t(R), pre(R), h, dp, z(Q), u(Q), w(p.out), dh(R);
      for (int64_t i = 0; i < R; ++i) {
        if (!s.aIndex.empty()) t[i] = mask[s.aIndex[i]] * x[s.aIndex[i]];
        for (int64_t k = 0; s.aIndex.empty() && k < p.in; ++k) t[i] += a.a[i * p.in + k] * mask[k] * x[k];
        r.t[(m * p.perRow + j) * tRanks + i] = t[i];
        pre[i] = t[i] + (a.rankBias.empty() ? 0.0 : a.rankBias[i]);
      }
      activate(static_cast<Phi>(s.activation), s.activeRanks, pre, dh, h, dp);
      for (int64_t q = 0; q < Q; ++q) {
        if (a.mid.empty()) z[q] = a.midDiagonal.empty() ? h[q] : a.midDiagonal[q] * h[q];
        for (int64_t i = 0; !a.mid.empty() && i < R; ++i) z[q] += a.mid[q * R + i] * h[i];
        if (!s.bIndex.empty()) {
          w[s.bIndex[q]] += z[q];
          u[q] = g[s.bIndex[q]];
        }
        for (int64_t n = 0; s.bIndex.empty() && n < p.out; ++n) {
          w[n] += a.b[n * Q + q] * z[q];
          u[q] += a.b[n * Q + q] * g[n];
        }
      }
      const double gate = v.gates[m * p.perRow + j], factor = gate * a.scale;
      double dot = 0;
      for (int64_t n = 0; n < p.out; ++n) {
        if (!a.outBias.empty()) w[n] += a.outBias[n];
        y[n] += factor * w[n];
        dot += g[n] * w[n];
        if (!a.outBias.empty()) da.outBias[n] += factor * g[n];
        for (int64_t q = 0; s.bIndex.empty() && q < Q; ++q) da.b[n * Q + q] += g[n] * factor * z[q];
      }
      d.gates[m * p.perRow + j] += a.scale * dot;
      da.scale += gate * dot;
      for (int64_t q = 0; q < Q; ++q)
        for (int64_t i = 0; i < R; ++i) {
          if (!a.mid.empty()) {
            dh[i] += a.mid[q * R + i] * factor * u[q];
            da.mid[q * R + i] += factor * u[q] * h[i];
          } else if (q == i) {
            dh[i] += (a.midDiagonal.empty() ? 1.0 : a.midDiagonal[i]) * factor * u[i];
            if (!a.midDiagonal.empty()) da.midDiagonal[i] += factor * u[i] * h[i];
          }
        }
      activate(static_cast<Phi>(s.activation), s.activeRanks, pre, dh, h, dp);
      for (int64_t i = 0; i < R; ++i) {
        if (!a.rankBias.empty()) da.rankBias[i] += dp[i];
        if (!s.aIndex.empty()) dx[s.aIndex[i]] += mask[s.aIndex[i]] * dp[i];
        for (int64_t k = 0; s.aIndex.empty() && k < p.in; ++k) {
          dx[k] += mask[k] * a.a[i * p.in + k] * dp[i];
          da.a[i * p.in + k] += dp[i] * mask[k] * x[k];
        }
      }
    }
  }
  return r;
}

}  // namespace rankone::test
