#include "recurrence_case.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace rankone::test {
namespace {

template <class F>
Values draw(int64_t count, DType dtype, F&& value) {
  Values values(static_cast<size_t>(count));
  for (double& x : values) x = value();
  return Array({count}, values, dtype).values();
}

}  // namespace

void drawArguments(reference::Problem& p, uint64_t seed, DType dtype, DType gateDType) {
  Random random(seed);
  const auto normal = [&] { return random.normal(); };
  const auto logDecay = [&] { return -0.3 * std::exp(random.normal()); };
  const int64_t rows = p.B * p.T, steps = rows * p.n, states = p.sequences() * p.HV * p.K * p.V;
  const double keyScale = 1 / std::sqrt(static_cast<double>(p.K));
  p.q = draw(rows * p.H * p.K, dtype, normal);
  p.k = draw(steps * p.H * p.K, dtype, [&] { return p.keysFromGates ? logDecay() : keyScale * normal(); });
  p.v = draw(steps * p.HV * p.V, dtype, normal);
  const int64_t gates = p.gate == RANKONE_GATE_NONE    ? 0
                        : p.gate == RANKONE_GATE_HEAD  ? p.HV
                        : p.gate == RANKONE_GATE_TOKEN ? rows * p.HV
                                                       : rows * p.HV * p.K;
  const bool raw = !p.aLog.empty();
  p.g = draw(gates, gateDType, [&] { return raw ? normal() : logDecay(); });
  if (p.update == RANKONE_DELTA)
    p.beta = draw(steps * p.HV, gateDType,
                  [&] { return p.betaActivation == RANKONE_BETA_NONE ? random.uniform() : normal(); });
  for (Values* few : {&p.aLog, &p.dtBias}) *few = draw(static_cast<int64_t>(few->size()), DType::F32, normal);
  if (!p.valueScale.empty()) p.valueScale = draw(steps * p.HV, DType::F32, [&] { return random.uniform(); });
  if (!p.initialState.empty()) p.initialState = draw(states, DType::F32, normal);
  if (!p.initialZ.empty())
    p.initialZ = draw(p.sequences() * p.H * p.K, DType::F32, [&] { return 1 + random.uniform(); });
}

void drawGradients(reference::Problem& p, uint64_t seed, DType dtype) {
  Random random(seed);
  const auto normal = [&] { return random.normal(); };
  p.dO = draw(p.B * p.T * p.HV * p.V, dtype, normal);
  if (!p.dFinalState.empty()) p.dFinalState = draw(p.sequences() * p.HV * p.K * p.V, DType::F32, normal);
  if (!p.dFinalZ.empty()) p.dFinalZ = draw(p.sequences() * p.H * p.K, DType::F32, normal);
}

std::string describe(const reference::Problem& p, DType dtype) {
  static const char* const gates[] = {"none", "head", "token", "channel"};
  char text[256];
  std::snprintf(text, sizeof text, "%s gate %s n %d, B %d T %d H %d/%d K %d V %d%s, %s",
                p.update == RANKONE_DELTA ? "delta" : "additive", gates[p.gate], static_cast<int>(p.n),
                static_cast<int>(p.B), static_cast<int>(p.T), static_cast<int>(p.H), static_cast<int>(p.HV),
                static_cast<int>(p.K), static_cast<int>(p.V), p.cuSeqlens.empty() ? "" : " packed", dtypeName(dtype));
  return text;
}

DeviceProblem::DeviceProblem(Device& device, const reference::Problem& p, DType dtype, DType gateDType) {
  const auto place = [&](DeviceArray& to, const Values& values, const Shape& shape, DType as) {
    if (!values.empty()) to = DeviceArray(device, Array(shape, values, as));
  };
  const int64_t N = p.sequences(), steps = p.T * p.n;
  place(q, p.q, {p.B, p.T, p.H, p.K}, dtype);
  place(k, p.k, {p.B, steps, p.H, p.K}, dtype);
  place(v, p.v, {p.B, steps, p.HV, p.V}, dtype);
  place(g, p.g, {static_cast<int64_t>(p.g.size())}, gateDType);
  place(beta, p.beta, {p.B, steps, p.HV}, gateDType);
  place(valueScale, p.valueScale, {p.B, steps, p.HV}, DType::F32);
  place(aLog, p.aLog, {p.HV}, DType::F32);
  place(dtBias, p.dtBias, {static_cast<int64_t>(p.dtBias.size())}, DType::F32);
  place(initialState, p.initialState, {N, p.HV, p.K, p.V}, DType::F32);
  place(initialZ, p.initialZ, {N, p.H, p.K}, DType::F32);

  problem.B = p.B;
  problem.T = p.T;
  problem.H = p.H;
  problem.HV = p.HV;
  problem.K = p.K;
  problem.V = p.V;
  problem.n = p.n;
  problem.N = N;
  problem.update = p.update;
  problem.gate = p.gate;
  problem.scale = static_cast<float>(p.scale);
  problem.normalize = p.normalize;
  problem.q = {q.data(), backendDType(dtype)};
  problem.k = {k.data(), backendDType(dtype)};
  problem.v = {v.data(), backendDType(dtype)};
  problem.g = {g.data(), backendDType(gateDType)};
  problem.beta = {beta.data(), backendDType(gateDType)};
  problem.cuSeqlens = p.cuSeqlens.empty() ? nullptr : p.cuSeqlens.data();
  problem.valueScale = valueScale.f32();
  problem.keysFromGates = p.keysFromGates;
  problem.qkL2norm = p.qkL2norm;
  problem.aLog = aLog.f32();
  problem.dtBias = dtBias.f32();
  problem.lowerBound = static_cast<float>(p.lowerBound);
  problem.betaActivation = p.betaActivation;
  problem.initialState = initialState.f32();
  problem.initialZ = initialZ.f32();
}

ChunkResult forwardInChunks(Device& device, const reference::Problem& p, DType dtype) {
  const DeviceProblem on(device, p, dtype, DType::F32);
  const DeviceArray o(device, {p.B, p.T, p.HV, p.V}, dtype), S(device, {p.sequences(), p.HV, p.K, p.V});
  RankoneRecurrenceForward args = {};
  args.problem = on.problem;
  args.problem.mode = RANKONE_MODE_CHUNK;
  args.problem.compute = RANKONE_COMPUTE_BF16;
  args.o = o.data();
  args.finalState = S.f32();
  device.recurrenceForward(args);
  return {o.host(), S.host()};
}

ChunkErrors errorsOf(const reference::Problem& p, const ChunkResult& result, const reference::Forward& expected) {
  ChunkErrors errors;
  double total = 0;
  for (double x : expected.o) total += x * x;
  const double rms =
      std::sqrt(total * static_cast<double>(p.V) / static_cast<double>(std::max<size_t>(expected.o.size(), 1)));
  for (int64_t s = 0; s < p.sequences(); ++s)
    for (int64_t h = 0; h < p.HV; ++h) {
      double off = 0, norm = 0;
      for (int64_t t = p.start(s); t < p.start(s + 1); ++t) {
        double tokenOff = 0, tokenNorm = 0;
        for (int64_t i = (t * p.HV + h) * p.V; i < (t * p.HV + h + 1) * p.V; ++i) {
          const double d = result.o.at(i) - expected.o[i];
          tokenOff += d * d;
          tokenNorm += expected.o[i] * expected.o[i];
        }
        off += tokenOff;
        norm += tokenNorm;
        const double e = tokenOff == 0 ? 0 : std::sqrt(tokenOff) / std::max(std::sqrt(tokenNorm), rms);
        if (!(e <= errors.token)) errors.token = e;
      }
      if (norm > 0 && !(std::sqrt(off / norm) <= errors.o)) errors.o = std::sqrt(off / norm);
      off = norm = 0;
      for (int64_t i = (s * p.HV + h) * p.K * p.V; i < (s * p.HV + h + 1) * p.K * p.V; ++i) {
        const double d = result.finalState.at(i) - expected.finalState[i];
        off += d * d;
        norm += expected.finalState[i] * expected.finalState[i];
      }
      const double e = norm > 0 ? std::sqrt(off / norm) : std::sqrt(off);
      if (!(e <= errors.state)) errors.state = e;
    }
  return errors;
}

void expectChunks(const reference::Problem& p, const ChunkResult& result, bool wide, DType dtype) {
  const ChunkErrors e = errorsOf(p, result, reference::forward(p));
  const double limit = wide ? kBf16WideOutputLimit : kBf16OutputLimit;
  const double stateLimit = wide ? kBf16WideStateLimit : kBf16StateLimit;
  const std::string name = describe(p, dtype);
  if (std::getenv("RANKONE_PRINT_ERRORS"))
    std::printf("\n  %s: o %.2e, token %.2e, state %.2e", name.c_str(), e.o, e.token, e.state);
  check(e.o <= limit, "%s: o off by %.2e, at most %.1e", name.c_str(), e.o, limit);
  check(e.token <= 10 * limit, "%s: a token of o off by %.2e, at most %.1e", name.c_str(), e.token, 10 * limit);
  check(e.state <= stateLimit, "%s: finalState off by %.2e, at most %.1e", name.c_str(), e.state, stateLimit);
}

}  // namespace rankone::test
