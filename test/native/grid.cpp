#include "grid.h"

#include <limits>

namespace rankone::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double logGate(Numbers numbers, Random& random) {
  const double mild = -std::fabs(random.normal()) / 16;
  switch (numbers) {
    case Numbers::Strong: return -20 * std::fabs(random.normal());
    case Numbers::Resets: return random.below(8) ? mild : random.below(2) ? -kInfinity : -110.0;
    case Numbers::Growing: return random.normal() / 32;
    default: return mild;
  }
}

void normalizeRows(Array& a, int64_t width) {
  for (int64_t row = 0; row < a.size(); row += width) {
    double squares = 1e-12;
    for (int64_t i = row; i < row + width; ++i) squares += a.at(i) * a.at(i);
    for (int64_t i = row; i < row + width; ++i) a.set(i, a.at(i) / std::sqrt(squares));
  }
}

void makeHostile(Array& a, Random& random) {
  constexpr double kValues[] = {std::numeric_limits<double>::quiet_NaN(), kInfinity, -kInfinity, 3e38, -3e38, 1e-45, 0};
  for (int64_t i = 0; i < a.size(); ++i)
    if (random.below(10) == 0) a.set(i, kValues[random.below(std::size(kValues))]);
}

Shape gateShape(const Sizes& s) {
  switch (s.gate) {
    case Gate::Head: return {s.HV};
    case Gate::Token: return {s.B, s.T, s.HV};
    default: return {s.B, s.T, s.HV, s.K};
  }
}

// Before its activation. A reset is far below what clears a state, so that no rounding decides.
double rawGate(const Sizes& s, Numbers numbers, Random& random) {
  const double x = random.normal();
  if (s.fused.lowerBound) return 2 * x;
  switch (numbers) {
    case Numbers::Strong: return 20 * std::fabs(x);
    case Numbers::Resets: return random.below(8) ? x - 1 : 2e4;
    default: return x - 1;
  }
}

// A divisor without cancellation: no negative queries and keys.
void drawFused(GridProblem& p, bool states, Random& random) {
  const Sizes& s = p.sizes;
  if (s.fused.gate) p.aLog = random.fill({s.HV}, [&] { return random.normal() / 2 - 1; });
  if (s.fused.dtBias) p.dtBias = random.normals(s.gate == Gate::Channel ? Shape{s.HV, s.K} : Shape{s.HV});
  if (!s.fused.normalize) return;
  for (Array* a : {&p.q, &p.k})
    for (int64_t i = 0; i < a->size(); ++i) a->set(i, std::fabs(a->at(i)));
  if (!states) return;
  p.initialZ = random.fill({s.B, s.H, s.K}, [&] { return random.uniform(); });
  p.dFinalZ = random.normals({s.B, s.H, s.K});
}

}  // namespace

GridValues GridProblem::values() const {
  return {q.values(),      k.values(),           v.values(),
          g.values(),      beta.values(),        initialState.values(),
          dO.values(),     dFinalState.values(), static_cast<float>(1 / std::sqrt(static_cast<double>(sizes.K))),
          aLog.values(),   dtBias.values(),      initialZ.values(),
          dFinalZ.values()};
}

GridProblem drawProblem(const Sizes& s, Numbers numbers, bool states, uint64_t seed, DType dtype) {
  Random random(seed);
  GridProblem p;
  p.sizes = s;
  p.q = random.normals({s.B, s.T, s.H, s.K});
  p.k = random.normals({s.B, s.T * s.n, s.H, s.K});
  normalizeRows(p.k, s.K);
  p.v = random.normals({s.B, s.T * s.n, s.HV, s.V});
  p.dO = random.normals({s.B, s.T, s.HV, s.V});
  if (s.gate != Gate::None)
    p.g = random.fill(gateShape(s),
                      [&] { return s.fused.gate ? rawGate(s, numbers, random) : logGate(numbers, random); });
  if (s.delta)
    p.beta = random.fill({s.B, s.T * s.n, s.HV},
                         [&] { return s.fused.betaMost ? random.normal() : random.uniform() * (1 + seed % 2); });
  if (states) {
    p.initialState = random.normals({s.B, s.HV, s.K, s.V});
    p.dFinalState = random.normals({s.B, s.HV, s.K, s.V});
  }
  drawFused(p, states, random);
  if (numbers == Numbers::Hostile)
    for (Array* a : {&p.q, &p.k, &p.v, &p.g, &p.beta, &p.initialState, &p.dO, &p.dFinalState, &p.aLog, &p.dtBias,
                     &p.initialZ, &p.dFinalZ})
      makeHostile(*a, random);
  for (Array* a : {&p.q, &p.k, &p.v, &p.dO}) *a = a->to(dtype);
  for (Array* a : {&p.g, &p.beta})
    if (seed % 2) *a = a->to(dtype);
  char label[160];
  std::snprintf(label, sizeof label, "%s B%d T%d H%d HV%d K%d V%d numbers %d states %d seed %llu", dtypeName(dtype),
                int(s.B), int(s.T), int(s.H), int(s.HV), int(s.K), int(s.V), int(numbers), states,
                static_cast<unsigned long long>(seed));
  p.label = label;
  return p;
}

namespace {

Invocation gridCall(const GridProblem& p, const std::string& function) {
  Invocation call(function);
  call.in("q", p.q).in("k", p.k).in("v", p.v).in("initialState", p.initialState);
  if (p.g.present()) call.in("g", p.g);
  if (p.beta.present()) call.in("beta", p.beta);
  if (p.sizes.n > 1) call.set("numHouseholder", static_cast<double>(p.sizes.n));
  if (p.cuSeqlens.present()) call.in("cuSeqlens", p.cuSeqlens);
  const Fused& fused = p.sizes.fused;
  if (fused.qkL2norm) call.set("qkL2norm", 1);
  if (fused.betaMost) call.choose("betaActivation", fused.betaMost == 2 ? "sigmoid2" : "sigmoid");
  if (fused.gate) call.in("aLog", p.aLog).in("dtBias", p.dtBias);
  if (fused.lowerBound) call.set("lowerBound", fused.lowerBound);
  if (fused.normalize) call.set("normalize", 1).in("initialZ", p.initialZ);
  return call;
}

}  // namespace

Invocation forwardCall(const GridProblem& p, const std::string& function) { return gridCall(p, function); }

Invocation backwardCall(const GridProblem& p, const std::string& function) {
  Invocation call = gridCall(p, function).in("dO", p.dO).in("dFinalState", p.dFinalState);
  return p.sizes.fused.normalize ? call.in("dFinalZ", p.dFinalZ) : call;
}

Array tokensOf(const Array& a, int64_t first, int64_t count, int64_t perToken) {
  if (!a.present() || a.shape().size() < 3) return a;
  Shape shape = a.shape();
  const int64_t rows = shape[1], inner = sizeOf({shape.begin() + 2, shape.end()});
  shape[1] = count * perToken;
  Array part(shape, a.tensor().dtype);
  for (int64_t i = 0; i < part.size(); ++i) {
    const int64_t b = i / (shape[1] * inner), rest = i % (shape[1] * inner);
    part.set(i, a.at((b * rows + first * perToken) * inner + rest));
  }
  return part;
}

Array rowsOf(const Array& a, int64_t first, int64_t count) {
  if (!a.present()) return a;
  Shape shape = a.shape();
  shape[0] = count;
  Array part(shape, a.tensor().dtype);
  for (int64_t i = 0; i < part.size(); ++i) part.set(i, a.at(first * (part.size() / count) + i));
  return part;
}

GridProblem tokensOf(const GridProblem& whole, int64_t first, int64_t count) {
  GridProblem p = whole;
  p.sizes.T = count;
  p.q = tokensOf(whole.q, first, count);
  p.k = tokensOf(whole.k, first, count, whole.sizes.n);
  p.v = tokensOf(whole.v, first, count, whole.sizes.n);
  p.g = tokensOf(whole.g, first, count);
  p.beta = tokensOf(whole.beta, first, count, whole.sizes.n);
  p.dO = tokensOf(whole.dO, first, count);
  return p;
}

}  // namespace rankone::test
