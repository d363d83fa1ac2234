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

}  // namespace

GridValues GridProblem::values() const {
  return {q.values(),  k.values(),           v.values(),
          g.values(),  beta.values(),        initialState.values(),
          dO.values(), dFinalState.values(), static_cast<float>(1 / std::sqrt(static_cast<double>(sizes.K)))};
}

GridProblem drawProblem(const Sizes& s, Numbers numbers, bool states, uint64_t seed) {
  Random random(seed);
  GridProblem p;
  p.sizes = s;
  p.q = random.normals({s.B, s.T, s.H, s.K});
  p.k = random.normals({s.B, s.T * s.n, s.H, s.K});
  normalizeRows(p.k, s.K);
  p.v = random.normals({s.B, s.T * s.n, s.HV, s.V});
  p.dO = random.normals({s.B, s.T, s.HV, s.V});
  if (s.gate != Gate::None) p.g = random.fill(gateShape(s), [&] { return logGate(numbers, random); });
  if (s.delta) p.beta = random.fill({s.B, s.T * s.n, s.HV}, [&] { return random.uniform() * (1 + seed % 2); });
  if (states) {
    p.initialState = random.normals({s.B, s.HV, s.K, s.V});
    p.dFinalState = random.normals({s.B, s.HV, s.K, s.V});
  }
  if (numbers == Numbers::Hostile)
    for (Array* a : {&p.q, &p.k, &p.v, &p.g, &p.beta, &p.initialState, &p.dO, &p.dFinalState}) makeHostile(*a, random);
  char label[128];
  std::snprintf(label, sizeof label, "B%d T%d H%d HV%d K%d V%d numbers %d states %d seed %llu", int(s.B), int(s.T),
                int(s.H), int(s.HV), int(s.K), int(s.V), int(numbers), states, static_cast<unsigned long long>(seed));
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
  return call;
}

}  // namespace

Invocation forwardCall(const GridProblem& p, const std::string& function) { return gridCall(p, function); }

Invocation backwardCall(const GridProblem& p, const std::string& function) {
  return gridCall(p, function).in("dO", p.dO).in("dFinalState", p.dFinalState);
}

}  // namespace rankone::test
