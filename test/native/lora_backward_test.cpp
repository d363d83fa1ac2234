// Gradients of the fused LoRA product: against float64 and, there, against differences; and what their bits depend on.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "check.h"
#include "core/cpu.h"
#include "core/parallel.h"
#include "lora_reference.h"

namespace rankone::test {
namespace {

constexpr const char* kFormats[] = {"f32", "bf16", "f16", "int8", "q8", "nf4", "q4", "identity", "none"};

enum class Routing { None, One, Segments, Tokens, TopK };

struct Draw {
  int64_t rows, in, out;
  int base;  // of kFormats
  Routing routing;
  int64_t perRow = 1, adapters = 3, mostRank = 20;
  DType dtype = DType::F32;
  double dropout = 0;
  bool pieces = true;
};

LoraSpec drawSpec(Random& random, const Draw& d, bool baseScale) {
  const auto chance = [&](double p) { return d.pieces && random.uniform() < p; };
  const auto vector = [&](int64_t n, double size, double offset) {
    std::vector<float> v(n);
    for (float& x : v) x = static_cast<float>(offset + size * random.normal());
    return v;
  };
  LoraSpec s;
  s.rank = 1 + random.below(d.mostRank);
  s.midRank = s.rank;
  s.scale = 0.5 + random.uniform();
  if (chance(0.35)) {
    s.midRank = 1 + random.below(d.mostRank);
    s.mid = vector(s.midRank * s.rank, 1 / std::sqrt(double(s.rank)), 0);
  } else if (chance(0.3)) {
    s.midDiagonal = vector(s.rank, 0.5, 1);
  }
  if (d.pieces) s.activation = static_cast<RankActivation>(random.below(5));
  s.activeRanks = 1 + random.below(s.rank);
  if (chance(0.4)) s.rankBias = vector(s.rank, 0.5, 0);
  if (chance(0.4)) s.outBias = vector(d.out, 0.5, 0);
  if (baseScale && chance(0.4)) s.baseScale = vector(d.out, 0.3, 1);
  constexpr PanelFormat kAdapterFormats[] = {PanelFormat::F32, PanelFormat::BF16, PanelFormat::F16};
  if (chance(0.2)) {
    for (int64_t r = 0; r < s.rank; ++r) s.aIndex.push_back(static_cast<int32_t>(random.below(d.in)));
  } else {
    const int width = s.rank <= panelWidth() / 2 ? panelWidth() / 2 : panelWidth();
    s.a = packMatrix(random, kAdapterFormats[random.below(3)], s.rank, d.in, 1 / std::sqrt(double(d.in)), width);
  }
  if (chance(0.2)) {
    for (int64_t r = 0; r < s.midRank; ++r) {
      s.bIndex.push_back(static_cast<int32_t>(random.below(d.out)));
      s.bOrder.push_back(static_cast<int32_t>(r));
    }
    std::stable_sort(s.bOrder.begin(), s.bOrder.end(), [&](int32_t i, int32_t j) { return s.bIndex[i] < s.bIndex[j]; });
  } else {
    s.b = packMatrix(random, kAdapterFormats[random.below(3)], d.out, s.midRank, 0.5, panelWidth());
  }
  return s;
}

LoraProblem drawLora(const Draw& d, uint64_t seed) {
  Random random(seed);
  LoraProblem p;
  p.rows = d.rows;
  p.in = d.in;
  p.out = d.base == 7 ? d.in : d.out;
  p.perRow = d.perRow;
  p.hasBase = d.base < 7;
  p.identity = d.base == 7;
  if (p.hasBase)
    p.base =
        packMatrix(random, static_cast<PanelFormat>(d.base), p.out, p.in, 1 / std::sqrt(double(p.in)), panelWidth());
  Draw sized = d;
  sized.out = p.out;
  if (d.routing != Routing::None) {
    for (int64_t e = 0; e < d.adapters; ++e) p.specs.push_back(drawSpec(random, sized, d.perRow == 1));
    p.slots.resize(p.rows * p.perRow);
    int64_t current = 0;
    for (int64_t i = 0; i < p.rows * p.perRow; ++i) {
      if (d.routing == Routing::Segments && random.uniform() < 0.2) current = random.below(d.adapters + 1);
      const int64_t e = d.routing == Routing::One        ? 0
                        : d.routing == Routing::Segments ? current
                                                         : random.below(d.adapters + 1);
      p.slots[i] = static_cast<int32_t>(e == d.adapters ? -1 : e);
    }
    if (d.routing == Routing::TopK) {
      p.gates.resize(p.slots.size());
      for (float& g : p.gates) g = static_cast<float>(random.uniform());
    }
  }
  if (random.uniform() < 0.5) {
    p.bias.resize(p.out);
    for (float& b : p.bias) b = static_cast<float>(random.normal());
  }
  p.dropout = d.dropout;
  p.seed = random.bits() >> 11;
  Random inputs(seed + 1, d.dtype);
  p.x = inputs.normals({p.rows, p.in});
  p.dY = inputs.normals({p.rows, p.out});
  constexpr const char* kRoutings[] = {"none", "one", "segments", "tokens", "topK"};
  char label[160];
  std::snprintf(label, sizeof label, "seed %d: %s [%d, %d, %d] %s %s x%d rank %d dropout %g", int(seed),
                kFormats[d.base], int(p.rows), int(p.in), int(p.out), dtypeName(d.dtype), kRoutings[int(d.routing)],
                int(p.perRow), int(d.mostRank), d.dropout);
  p.label = label;
  return p;
}

struct LoraResults {
  Array y, dx, dGates, dBias, t;
  struct Adapter {
    Array a, b, mid, rankBias, scale, baseScale, outBias;
  };
  std::vector<Adapter> adapters;
};

constexpr int64_t kSpareRanks = 3;  // columns of the caller's B and M beyond those in use

int64_t mostRank(const LoraProblem& p) {
  int64_t most = 1;
  for (const LoraSpec& s : p.specs) most = std::max(most, s.rank);
  return most;
}

LoraResults runLora(LoraProblem& p, DType dxDType, bool bf16, bool given) {
  LoraArgs args = p.args();
  args.bf16 = bf16;
  LoraResults r;
  const auto blank = [](const Shape& shape, DType dtype = DType::F32) {
    Array a(shape, dtype);
    a.fillWithNaN();
    return a;
  };
  r.y = blank({p.rows, p.out}, args.dtype);
  r.t = blank({p.rows, p.perRow, mostRank(p)});
  args.t = r.t.tensor().f32();
  args.tRanks = mostRank(p);
  loraForward(args, r.y.tensor().data, args.dtype);
  if (!given) args.t = nullptr;
  r.dx = blank({p.rows, p.in}, dxDType);
  r.dGates = Array({p.rows, p.perRow}, Values(p.rows * p.perRow));
  r.dBias = blank({p.out});
  std::vector<LoraAdapterGradient> to;
  for (const LoraSpec& s : p.specs) {
    LoraResults::Adapter a;
    LoraAdapterGradient g;
    const auto want = [&](bool exists, Array& array, float*& pointer, const Shape& shape) {
      if (!exists) return;
      array = Array(shape, Values(sizeOf(shape)));  // zeros, which are added to
      pointer = array.tensor().f32();
    };
    g.bRanks = s.midRank + kSpareRanks;
    g.midRanks = s.rank + kSpareRanks;
    want(s.aIndex.empty(), a.a, g.a, {s.rank, p.in});
    want(s.bIndex.empty(), a.b, g.b, {p.out, g.bRanks});
    want(!s.mid.empty(), a.mid, g.mid, {s.midRank, g.midRanks});
    want(!s.midDiagonal.empty(), a.mid, g.mid, {s.rank});
    want(!s.rankBias.empty(), a.rankBias, g.rankBias, {s.rank});
    want(true, a.scale, g.scale, {1});
    want(!s.baseScale.empty(), a.baseScale, g.baseScale, {p.out});
    want(!s.outBias.empty(), a.outBias, g.outBias, {p.out});
    r.adapters.push_back(a);
    to.push_back(g);
  }
  LoraGradients gradients;
  gradients.dY = p.dY.tensor().data;
  gradients.dx = r.dx.tensor().data;
  gradients.dxDType = dxDType;
  gradients.dBias = r.dBias.tensor().f32();
  gradients.dGates = r.dGates.tensor().f32();
  gradients.adapters = to.data();
  gradients.adapterCount = static_cast<int64_t>(to.size());
  loraBackward(args, gradients);
  return r;
}

// The reference, and what it gives when all that products multiply is moved by a part of itself.
struct Expected {
  LoraReference f;
  std::vector<LoraReference> moved;
  double limit, half;  // of a tensor's largest element; what rounding to 16 bits adds
};

Expected expectedOf(const LoraProblem& p, bool bf16) {
  Expected e{loraReference(p, valuesOf(p), mostRank(p)), {}, bf16 ? 6e-3 : 3e-6, 5e-3};
  const double part = bf16 ? 0x1p-9 : 0x1p-22;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    Random random(seed);
    const auto move = [&](Values& values) {
      for (double& x : values) x *= 1 + part * random.normal();
    };
    LoraProblem q = p;
    LoraValues v = valuesOf(p);
    q.dY = Array(p.dY.shape(), p.dY.values());
    for (int64_t i = 0; i < q.dY.size(); ++i) q.dY.set(i, q.dY.at(i) * (1 + part * random.normal()));
    move(q.base.values);
    move(v.x);
    for (auto& a : v.adapters) {
      move(a.a);
      move(a.b);
    }
    e.moved.push_back(loraReference(q, v, mostRank(p)));
  }
  return e;
}

// Every element within the limit and a few times what moving does to the tensor. `columns`: of the reference, the
// others being zero.
template <class Of>
void expectClose(const LoraProblem& p, const Expected& e, const std::string& name, const Array& got, Of&& of,
                 int64_t columns = 0) {
  if (!got.present()) return;
  const Values expected = of(e.f);
  double most = 0, noise = 0;
  for (double x : expected) most = std::max(most, std::fabs(x));
  for (const LoraReference& f : e.moved) {
    const Values moved = of(f);
    for (size_t i = 0; i < expected.size(); ++i) noise = std::max(noise, std::fabs(moved[i] - expected[i]));
  }
  const double limit = (e.limit + (got.tensor().dtype == DType::F32 ? 0 : e.half)) * most + 8 * noise;
  const int64_t ld = columns ? columns + kSpareRanks : 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    double want = 0;
    if (!columns)
      want = expected[i];
    else if (i % ld < columns)
      want = expected[i / ld * columns + i % ld];
    check(std::fabs(got.at(i) - want) <= limit, "%s: %s[%d] is %.9g, expected %.9g (largest %g, limit %g)",
          p.label.c_str(), name.c_str(), int(i), got.at(i), want, most, limit);
  }
}

void expectReference(const LoraProblem& p, const LoraResults& r, const Expected& e) {
  using F = const LoraReference&;
  expectClose(p, e, "y", r.y, [](F f) -> const Values& { return f.y; });
  expectClose(p, e, "dx", r.dx, [](F f) -> const Values& { return f.gradient.x; });
  expectClose(p, e, "dBias", r.dBias, [](F f) -> const Values& { return f.dBias; });
  if (p.slots.empty()) return;
  expectClose(p, e, "t", r.t, [](F f) -> const Values& { return f.t; });
  expectClose(p, e, "dGates", r.dGates, [](F f) -> const Values& { return f.gradient.gates; });
  for (size_t k = 0; k < p.specs.size(); ++k) {
    const auto& got = r.adapters[k];
    const std::string of = " of adapter " + std::to_string(k);
    const auto expect = [&](const char* name, const Array& a, Values LoraValues::Adapter::*member, int64_t columns) {
      expectClose(
          p, e, name + of, a, [&](F f) -> const Values& { return f.gradient.adapters[k].*member; }, columns);
    };
    using A = LoraValues::Adapter;
    expect("dA", got.a, &A::a, 0);
    expect("dB", got.b, &A::b, p.specs[k].midRank);
    if (p.specs[k].mid.empty())
      expect("dM", got.mid, &A::midDiagonal, 0);
    else
      expect("dM", got.mid, &A::mid, p.specs[k].rank);
    expect("dRankBias", got.rankBias, &A::rankBias, 0);
    expectClose(p, e, "dScale" + of, got.scale, [&](F f) { return Values{f.gradient.adapters[k].scale}; });
    expect("dBaseScale", got.baseScale, &A::baseScale, 0);
    expect("dOutBias", got.outBias, &A::outBias, 0);
  }
}

bool sameResults(const LoraResults& a, const LoraResults& b) {
  bool same = a.dx.sameBits(b.dx) && a.dGates.sameBits(b.dGates) && a.dBias.sameBits(b.dBias);
  for (size_t e = 0; e < a.adapters.size(); ++e) {
    const auto &x = a.adapters[e], &y = b.adapters[e];
    for (const auto& [u, v] : {std::pair(x.a, y.a),
                               {x.b, y.b},
                               {x.mid, y.mid},
                               {x.rankBias, y.rankBias},
                               {x.scale, y.scale},
                               {x.baseScale, y.baseScale},
                               {x.outBias, y.outBias}})
      same = same && (!u.present() || u.sameBits(v));
  }
  return same;
}

Draw drawShape(Random& random, int base) {
  constexpr int64_t kSizes[] = {1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 40, 47, 64, 70, 96, 129, 200};
  constexpr int64_t kRanks[] = {1, 3, 8, 20, 40, 70};
  Draw d{};
  d.rows = random.uniform() < 0.2 ? 1 + random.below(5) : 1 + random.below(60);
  d.in = kSizes[random.below(18)];
  d.out = kSizes[random.below(18)];
  d.base = base;
  d.routing = static_cast<Routing>(random.below(5));
  d.perRow = d.routing == Routing::TopK ? 1 + random.below(3) : 1;
  d.adapters = 1 + random.below(5);
  d.mostRank = kRanks[random.below(6)];
  d.dtype = static_cast<DType>(random.below(3));
  d.dropout = random.uniform() < 0.3 ? 0.3 : 0;
  d.pieces = random.uniform() < 0.8;
  return d;
}

void testLora(const Draw& d, uint64_t seed, bool bf16) {
  LoraProblem p = drawLora(d, seed);
  const DType dxDType = seed % 2 ? DType::F32 : d.dtype;
  const LoraResults r = runLora(p, dxDType, bf16, true);
  expectReference(p, r, expectedOf(p, bf16));
  check(sameResults(r, runLora(p, dxDType, bf16, false)), "%s: other bits where t is made again", p.label.c_str());
  setNumThreads(1);
  const bool same = sameResults(r, runLora(p, dxDType, bf16, true));
  setNumThreads(3);
  check(same, "%s: other bits on one thread", p.label.c_str());
}

const bool added = [] {
  for (int base = 0; base < 9; ++base)
    for (const bool bf16 : {false, true})
      addTest(std::string("lora gradients, base ") + kFormats[base] + (bf16 ? ", compute bf16" : ""), [=] {
        if (bf16 && !hasBf16Dot()) return;
        Random random(77 + base);
        for (int i = 0; i < (quick() ? 12 : 60); ++i)
          testLora(drawShape(random, base), static_cast<uint64_t>(1000 * base + i), bf16);
      });
  return true;
}();

// Outputs in several chunks and blocks, rows in several blocks.
TEST("lora gradients, blocks") {
  for (const bool bf16 : {false, true}) {
    if (bf16 && !hasBf16Dot()) continue;
    testLora({2100, 5, 7, 0, Routing::Tokens, 1, 3, 5, DType::F32, 0.2, true}, 9001, bf16);
    testLora({30, 9, bf16 ? 8200 : 4200, 1, Routing::Segments, 1, 2, 20, DType::BF16, 0, true}, 9002, bf16);
    if (!quick()) testLora({525, 6, bf16 ? 13000 : 6600, 5, Routing::One, 1, 1, 17, DType::F32, 0, true}, 9003, bf16);
    testLora({5, 7, 0, 0, Routing::Tokens, 1, 3, 5, DType::F32, 0, false}, 9005, bf16);
    testLora({40, 2500, 11, 3, Routing::Tokens, 1, 4, 20, DType::F32, 0.5, true}, 9004, bf16);
  }
}

// A row's dx and dGates are those that it has alone.
TEST("lora gradients of a row alone") {
  Random random(5);
  for (int i = 0; i < (quick() ? 9 : 36); ++i) {
    for (const bool bf16 : {false, true}) {
      if (bf16 && !hasBf16Dot()) continue;
      Draw d = drawShape(random, i % 9);
      d.dropout = 0;  // whose mask goes by the row's number
      if (i % 4 == 0) d.out = 2300;
      LoraProblem p = drawLora(d, 5000 + i);
      const LoraResults all = runLora(p, DType::F32, bf16, false);
      for (int64_t m = 0; m < p.rows; m += 1 + p.rows / 4) {
        LoraProblem one = drawLora(d, 5000 + i);
        one.rows = 1;
        const auto rowOf = [&](const Array& a, int64_t n) {
          Array row({1, n}, a.tensor().dtype);
          for (int64_t k = 0; k < n; ++k) row.set(k, a.at(m * n + k));
          return row;
        };
        one.x = rowOf(p.x, p.in);
        one.dY = rowOf(p.dY, p.out);
        if (!p.slots.empty()) one.slots.assign(&p.slots[m * p.perRow], &p.slots[m * p.perRow] + p.perRow);
        if (!p.gates.empty()) one.gates.assign(&p.gates[m * p.perRow], &p.gates[m * p.perRow] + p.perRow);
        const LoraResults alone = runLora(one, DType::F32, bf16, false);
        check(alone.dx.sameBits(rowOf(all.dx, p.in)), "%s: dx of row %d has other bits alone", p.label.c_str(), int(m));
        check(alone.dGates.sameBits(rowOf(all.dGates, p.perRow)), "%s: dGates of row %d has other bits alone",
              p.label.c_str(), int(m));
      }
    }
  }
}

// The reference itself: every gradient against central differences of sum dY y.
TEST("lora gradients of the reference") {
  Random random(11);
  for (int i = 0; i < (quick() ? 6 : 30); ++i) {
    Draw d{3, 5, 4, i % 9, i % 2 ? Routing::TopK : Routing::Tokens, 1 + i % 2, 2, 4, DType::F32, i % 3 ? 0 : 0.3, true};
    LoraProblem p = drawLora(d, 7000 + i);
    LoraValues v = valuesOf(p);
    const Values dY = p.dY.values();
    const LoraReference f = loraReference(p, v, 4);
    const auto loss = [&] {
      const Values y = loraReference(p, v, 4).y;
      double total = 0;
      for (size_t k = 0; k < y.size(); ++k) total += dY[k] * y[k];
      return total;
    };
    const auto expect = [&](const char* name, double& x, double gradient) {
      const double at = x, h = 1e-5;
      x = at + h;
      const double above = loss();
      x = at - h;
      const double below = loss();
      x = at;
      check(std::fabs((above - below) / (2 * h) - gradient) <= 1e-7 * (1 + std::fabs(gradient)) * 100,
            "%s: %s is %.9g, differences say %.9g", p.label.c_str(), name, gradient, (above - below) / (2 * h));
    };
    const auto expectAll = [&](const char* name, Values& x, const Values& gradient) {
      for (size_t k = 0; k < x.size(); ++k) expect(name, x[k], gradient[k]);
    };
    expectAll("dx", v.x, f.gradient.x);
    expectAll("dGates", v.gates, f.gradient.gates);
    for (size_t e = 0; e < v.adapters.size(); ++e) {
      auto& a = v.adapters[e];
      const auto& g = f.gradient.adapters[e];
      expect("dScale", a.scale, g.scale);
      expectAll("dA", a.a, g.a);
      expectAll("dB", a.b, g.b);
      expectAll("dM", a.mid, g.mid);
      expectAll("dM", a.midDiagonal, g.midDiagonal);
      expectAll("dRankBias", a.rankBias, g.rankBias);
      expectAll("dBaseScale", a.baseScale, g.baseScale);
      expectAll("dOutBias", a.outBias, g.outBias);
    }
  }
}

}  // namespace
}  // namespace rankone::test
