// Gradients of the grid against the reference: float32 arithmetic and bf16 arithmetic, every cell.
#include <cmath>
#include <cstdlib>

#include "recurrence_case.h"

namespace rankone::test {
namespace {

using reference::Problem;

constexpr int32_t kGates[] = {RANKONE_GATE_NONE, RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL};

struct Results {
  Array dq, dk, dv, dg, dbeta, dInitialState, dInitialZ, dALog, dDtBias;
};

Problem cell(int32_t update, int32_t gate, int64_t n, int64_t T, int64_t K, int64_t V) {
  Problem p;
  p.update = update;
  p.gate = gate;
  p.n = n;
  p.T = T;
  p.K = K;
  p.V = V;
  p.scale = 1 / std::sqrt(static_cast<double>(K));
  p.initialState.resize(1);
  p.dFinalState.resize(1);
  return p;
}

// Every cell: f(problem) with the sizes still to be chosen.
template <class F>
void forEachCell(F&& f) {
  for (int32_t gate : kGates) {
    f(RANKONE_ADDITIVE, gate, 1);
    for (int64_t n = 1; n <= 3; ++n) f(RANKONE_DELTA, gate, n);
  }
}

struct How {
  DType dtype = DType::F32;
  bool saved = false;  // by a forward before
  int32_t compute = RANKONE_COMPUTE_DEFAULT;
};

// Of arguments on a device; outputs hold NaNs until they are written.
Results gradients(Device& device, const Problem& p, const How& how) {
  const DeviceProblem on(device, p, how.dtype, DType::F32);
  const int64_t N = p.sequences(), steps = p.T * p.n;
  const auto output = [&](bool wanted, const Shape& shape) {
    return wanted ? DeviceArray(device, shape) : DeviceArray();
  };
  const auto state = [&](const Values& values) {
    return values.empty() ? DeviceArray() : DeviceArray(device, Array({N, p.HV, p.K, p.V}, values));
  };
  const DeviceArray dO(device, Array({p.B, p.T, p.HV, p.V}, p.dO, how.dtype)), dFinal = state(p.dFinalState);
  const DeviceArray dFinalZ = p.dFinalZ.empty() ? DeviceArray() : DeviceArray(device, Array({N, p.H, p.K}, p.dFinalZ));
  const DeviceArray dq(device, {p.B, p.T, p.H, p.K}), dk(device, {p.B, steps, p.H, p.K}),
      dv(device, {p.B, steps, p.HV, p.V});
  const DeviceArray dg = output(!p.g.empty(), p.gate == RANKONE_GATE_HEAD    ? Shape{p.HV}
                                              : p.gate == RANKONE_GATE_TOKEN ? Shape{p.B, p.T, p.HV}
                                                                             : Shape{p.B, p.T, p.HV, p.K});
  const DeviceArray dbeta = output(!p.beta.empty(), {p.B, steps, p.HV});
  const DeviceArray dInitial = output(!p.initialState.empty(), {N, p.HV, p.K, p.V});
  const DeviceArray dInitialZ = output(!p.initialZ.empty(), {N, p.H, p.K});
  const DeviceArray dALog = output(!p.aLog.empty(), {p.HV});
  const DeviceArray dDtBias = output(!p.dtBias.empty(), {static_cast<int64_t>(p.dtBias.size())});

  RankoneRecurrenceBackward args = {};
  args.problem = on.problem;
  args.problem.compute = how.compute;
  args.dO = dO.floats();
  args.dFinalState = dFinal.f32();
  args.dFinalZ = dFinalZ.f32();
  args.dq = dq.f32();
  args.dk = dk.f32();
  args.dv = dv.f32();
  args.dg = dg.f32();
  args.dbeta = dbeta.f32();
  args.dInitialState = dInitial.f32();
  args.dInitialZ = dInitialZ.f32();
  args.dALog = dALog.f32();
  args.dDtBias = dDtBias.f32();
  DeviceArray saved;
  if (how.saved) {
    const DeviceArray o(device, {p.B, p.T, p.HV, p.V}, how.dtype);
    saved = DeviceArray(device, {static_cast<int64_t>(backend().savedBytes(&args.problem) / sizeof(float))});
    RankoneRecurrenceForward forward = {};
    forward.problem = args.problem;
    forward.o = o.data();
    forward.saved = saved.data();
    device.recurrenceForward(forward);
    args.saved = saved.data();
  }
  device.recurrenceBackward(args);
  const auto host = [](const DeviceArray& a) { return a.present() ? a.host() : Array(); };
  return {host(dq),       host(dk),        host(dv),    host(dg),     host(dbeta),
          host(dInitial), host(dInitialZ), host(dALog), host(dDtBias)};
}

struct Limits {
  double state, gate;
};
constexpr Limits kF32{kStateLimit, kGateLimit}, kBf16{kBf16StateLimit, kBf16GateLimit},
    kBf16Wide{kBf16WideStateLimit, kBf16WideGateLimit};

// A head gate's gradient is a sum over tokens, which may cancel: each summand has the limit of a token gate's.
Values headGateNoise(const Problem& p, double limit) {
  if (p.gate != RANKONE_GATE_HEAD) return {};
  Problem byToken = p;
  byToken.gate = RANKONE_GATE_TOKEN;
  byToken.g.clear();
  for (int64_t t = 0; t < p.B * p.T; ++t) byToken.g.insert(byToken.g.end(), p.g.begin(), p.g.end());
  const Values dg = reference::backward(byToken).dg;
  Values noise(p.g.size());
  for (size_t i = 0; i < dg.size(); ++i) noise[i % noise.size()] += dg[i] * dg[i];
  for (double& x : noise) x = limit * std::sqrt(x) / 16;  // 16 times the noise is forgiven
  return noise;
}

void expectGradients(const Problem& p, const Results& r, const std::string& name, const Limits& limits) {
  const reference::Gradients expected = reference::backward(p);
  const auto near = [&](const char* what, const Array& result, const Values& values, Rows rows, double limit,
                        const Values& noise = {}) {
    if (result.present()) expectNear(name + ": " + what, result, {values, noise}, rows, limit);
  };
  near("dq", r.dq, expected.dq, Rows::Tokens, limits.state);
  near("dk", r.dk, expected.dk, Rows::Tokens, limits.state);
  near("dv", r.dv, expected.dv, Rows::Tokens, limits.state);
  near("dg", r.dg, expected.dg, Rows::Tokens, limits.gate, headGateNoise(p, limits.gate));
  near("dbeta", r.dbeta, expected.dbeta, Rows::Tokens, limits.gate);
  near("dInitialState", r.dInitialState, expected.dInitialState, Rows::States, limits.state);
  near("dInitialZ", r.dInitialZ, expected.dInitialZ, Rows::States, limits.state);
  near("dALog", r.dALog, expected.dALog, Rows::Whole, limits.gate);
  near("dDtBias", r.dDtBias, expected.dDtBias, Rows::Whole, limits.gate);
}

void draw(Problem& p, uint64_t seed, const How& how) {
  drawArguments(p, seed, how.dtype, DType::F32);
  drawGradients(p, seed + 1000, how.dtype);
}

void compare(const Problem& p, const How& how, const Limits& limits) {
  Device device;
  expectGradients(p, gradients(device, p, how), describe(p, how.dtype), limits);
}

const Limits& limitsOf(const How& how) { return how.dtype == DType::F32 ? kF32 : kBf16; }

// One chunk and a bit, grouped heads, sizes that are no multiple of anything.
void everyCell(const How& how) {
  uint64_t seed = 1;
  forEachCell([&](int32_t update, int32_t gate, int64_t n) {
    Problem p = cell(update, gate, n, 64 / n + 3, 19, 21);
    p.HV = 2;
    draw(p, ++seed, how);
    compare(p, how, limitsOf(how));
  });
}
TEST("backward: every cell, float32") { everyCell({}); }
TEST("backward: every cell, bf16") { everyCell({DType::BF16}); }

// Tiles of K and V that are full, and more of them than one.
TEST("backward: wide heads") {
  uint64_t seed = 50;
  for (const How& how : {How{}, How{DType::BF16}})
    for (int32_t gate : {RANKONE_GATE_NONE, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(RANKONE_DELTA, gate, 1, 70, gate == RANKONE_GATE_CHANNEL ? 128 : 100, 72);
      draw(p, ++seed, how);
      compare(p, how, limitsOf(how));
    }
  for (const How& how : {How{}, How{DType::BF16}}) {
    Problem p = cell(RANKONE_DELTA, RANKONE_GATE_CHANNEL, 1, 66, 256, 256);
    draw(p, ++seed, how);
    compare(p, how, limitsOf(how));
  }
}

TEST("backward: the narrowest heads, one token, none at all") {
  uint64_t seed = 80;
  for (const How& how : {How{}, How{DType::BF16}})
    for (int32_t gate : kGates)
      for (int64_t T : {0, 1, 20}) {
        // A state of one number: of updates that take from it what is there, bf16 leaves nothing to compare.
        Problem p = cell(how.dtype == DType::F32 ? RANKONE_DELTA : RANKONE_ADDITIVE, gate, 1, T, 1, 1);
        draw(p, ++seed, how);
        compare(p, how, limitsOf(how));
      }
}

// Sequences of all kinds in a batch; each one's bits are those of its own call.
TEST("backward: packed sequences") {
  uint64_t seed = 100;
  for (const How& how : {How{}, How{DType::BF16}})
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(RANKONE_DELTA, gate, 2, 88, 24, 16);
      p.HV = 2;
      p.cuSeqlens = {0, 0, 33, 34, 34, 88, 88};
      draw(p, ++seed, how);
      Device device;
      const Results packed = gradients(device, p, how);
      expectGradients(p, packed, describe(p, how.dtype), limitsOf(how));

      Problem alone = p;  // the fifth sequence
      alone.cuSeqlens.clear();
      const int64_t first = 34, tokens = 54;
      alone.T = tokens;
      const auto part = [&](Values& values, int64_t perToken) {
        values = Values(values.begin() + first * perToken, values.begin() + (first + tokens) * perToken);
      };
      part(alone.q, p.H * p.K), part(alone.k, p.n * p.H * p.K), part(alone.v, p.n * p.HV * p.V);
      part(alone.dO, p.HV * p.V), part(alone.beta, p.n * p.HV);
      part(alone.g, gate == RANKONE_GATE_TOKEN ? p.HV : p.HV * p.K);
      const int64_t state = p.HV * p.K * p.V;
      for (Values* values : {&alone.initialState, &alone.dFinalState})
        *values = Values(values->begin() + 4 * state, values->begin() + 5 * state);
      const Results single = gradients(device, alone, how);
      const auto same = [&](const char* what, const Array& all, const Array& one, int64_t from) {
        for (int64_t i = 0; i < one.size(); ++i)
          check(all.at(from + i) == one.at(i), "%s differs from that of the sequence alone, %s", what,
                describe(p, how.dtype).c_str());
      };
      same("dq", packed.dq, single.dq, first * p.H * p.K);
      same("dk", packed.dk, single.dk, first * p.n * p.H * p.K);
      same("dv", packed.dv, single.dv, first * p.n * p.HV * p.V);
      same("dg", packed.dg, single.dg, first * p.HV * (gate == RANKONE_GATE_TOKEN ? 1 : p.K));
      same("dbeta", packed.dbeta, single.dbeta, first * p.n * p.HV);
      same("dInitialState", packed.dInitialState, single.dInitialState, 4 * state);
    }
}

TEST("backward: resets, strong gates and growing ones") {
  uint64_t seed = 150;
  for (const How& how : {How{}, How{DType::BF16}})
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL})
      for (int kind = 0; kind < 3; ++kind) {
        Problem p = cell(RANKONE_DELTA, gate, 1, 130, 24, 20);
        draw(p, ++seed, how);
        Random random(seed);
        for (double& g : p.g) {
          const double u = random.uniform();
          if (kind == 0) g = u < 0.05 ? -INFINITY : u < 0.1 ? -105 : u < 0.15 ? -60 : -0.2 * random.uniform();
          if (kind == 1) g = -12 * u;
          if (kind == 2) g = static_cast<float>(0.02 * u);
          g = static_cast<float>(g);
        }
        if (kind == 0) p.g[0] = p.g[p.g.size() / 2] = -INFINITY;
        const Limits& limits = kind == 2 && how.dtype != DType::F32 ? kBf16Wide : limitsOf(how);
        Device device;
        const Results r = gradients(device, p, how);
        expectGradients(p, r, describe(p, how.dtype) + ", gates " + std::to_string(kind), limits);
        for (size_t i = 0; i < p.g.size(); ++i)
          if (p.g[i] < -104) check(r.dg.at(static_cast<int64_t>(i)) == 0, "dg of a reset is not zero");
      }
}

TEST("backward: a trace that the forward left gives the bits of one recomputed") {
  uint64_t seed = 200;
  for (const How& how : {How{}, How{DType::BF16}})
    for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA}) {
      Problem p = cell(update, RANKONE_GATE_TOKEN, 1, 70, 24, 20);
      draw(p, ++seed, how);
      Device device;
      How fromSaved = how;
      fromSaved.saved = true;
      const Results a = gradients(device, p, how), b = gradients(device, p, fromSaved);
      check(a.dq.sameBits(b.dq) && a.dk.sameBits(b.dk) && a.dv.sameBits(b.dv) && a.dg.sameBits(b.dg) &&
                a.dInitialState.sameBits(b.dInitialState),
            "other bits, %s", describe(p, how.dtype).c_str());
      expectGradients(p, b, describe(p, how.dtype), limitsOf(how));
    }
}

TEST("backward: fused norms and activations, normalize") {
  uint64_t seed = 250;
  for (const How& how : {How{}, How{DType::BF16}, How{DType::F16}}) {
    const Limits& limits = limitsOf(how);
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(RANKONE_DELTA, gate, 1, 40, 24, 20);
      p.HV = 2;
      p.qkL2norm = true;
      p.aLog.resize(2);
      p.dtBias.resize(gate == RANKONE_GATE_TOKEN ? 2 : 48);
      p.lowerBound = gate == RANKONE_GATE_TOKEN ? 0 : -5;
      p.betaActivation = RANKONE_BETA_SIGMOID;
      draw(p, ++seed, how);
      compare(p, how, limits);
    }
    Problem p = cell(RANKONE_ADDITIVE, RANKONE_GATE_NONE, 1, 70, 24, 20);
    p.H = p.HV = 2;
    p.normalize = true;
    p.initialZ.resize(1);
    p.dFinalZ.resize(1);
    draw(p, ++seed, how);
    for (Values* values : {&p.q, &p.k})  // so that the divisor stays away from zero
      for (double& x : *values) x = std::fabs(x);
    compare(p, how, limits);
  }
}

TEST("backward: arithmetic that the call asks for") {
  uint64_t seed = 280;
  for (int32_t gate : {RANKONE_GATE_HEAD, RANKONE_GATE_CHANNEL}) {
    Problem p = cell(RANKONE_DELTA, gate, 1, 70, 24, 20);
    const How inF32{DType::BF16, false, RANKONE_COMPUTE_F32}, inBf16{DType::F32, false, RANKONE_COMPUTE_BF16};
    draw(p, ++seed, inF32);
    compare(p, inF32, kF32);
    draw(p, ++seed, inBf16);
    compare(p, inBf16, kBf16);
  }
}

// The reverse scan hands its state from launch to launch where the workspace holds few chunks.
TEST("backward: a small workspace changes no bits") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    const How how{DType::BF16};
    Problem p = cell(RANKONE_DELTA, gate, 2, 120, 24, 20);
    p.cuSeqlens = {0, 0, 70, 71, 120};
    draw(p, 290, how);
    Device device;
    const Results whole = gradients(device, p, how);
    expectGradients(p, whole, describe(p, how.dtype), kBf16);
    setenv("RANKONE_CUDA_WORKSPACE", "1", 1);
    const Results parts = gradients(device, p, how);
    p.initialState.clear();  // then the state between launches has memory of its own
    const Results stateless = gradients(device, p, how);
    unsetenv("RANKONE_CUDA_WORKSPACE");
    check(whole.dq.sameBits(parts.dq) && whole.dk.sameBits(parts.dk) && whole.dv.sameBits(parts.dv) &&
              whole.dg.sameBits(parts.dg) && whole.dInitialState.sameBits(parts.dInitialState),
          "other bits");
    check(whole.dv.sameBits(stateless.dv), "other bits of dv without an initial state");
  }
}

// NaN in one sequence or value head stays there.
TEST("backward: NaN stays in its sequence and head") {
  for (const How& how : {How{}, How{DType::BF16}}) {
    Problem p = cell(RANKONE_DELTA, RANKONE_GATE_TOKEN, 1, 70, 24, 20);
    p.B = p.H = p.HV = 2;
    draw(p, 300, how);
    p.dO[5] = p.v[p.T * p.HV * p.V / 2] = NAN;
    Device device;
    const Results r = gradients(device, p, how);
    const int64_t perBatch = p.T * p.HV * p.V;
    check(std::isnan(r.dv.at(5)), "NaN is lost");
    for (int64_t i = 0; i < 2 * perBatch; ++i)
      if (i >= perBatch || i / p.V % p.HV == 1) check(std::isfinite(r.dv.at(i)), "NaN went astray");
  }
}

}  // namespace
}  // namespace rankone::test
