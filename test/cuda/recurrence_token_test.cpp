// The token form: every cell one update at a time, in float32.
#include <array>
#include <cmath>

#include "recurrence_case.h"

namespace rankone::test {
namespace {

using reference::Problem;

Problem cell(int32_t update, int32_t gate, int64_t n = 1) {
  Problem p;
  p.update = update;
  p.gate = gate;
  p.n = n;
  p.T = 11;
  p.HV = 2;
  p.K = 16;
  p.V = 20;
  p.scale = 0.25;
  p.initialState.resize(1);
  return p;
}

struct Result {
  Array o, finalState, finalZ;
};

Result run(Device& device, const Problem& p, DType dtype, DType gateDType, int32_t mode = RANKONE_MODE_RECURRENT) {
  const DeviceProblem on(device, p, dtype, gateDType);
  const DeviceArray o(device, {p.B, p.T, p.HV, p.V}, dtype), S(device, {p.sequences(), p.HV, p.K, p.V});
  const DeviceArray z(device, {p.sequences(), p.H, p.K});
  RankoneRecurrenceForward args = {};
  args.problem = on.problem;
  args.problem.mode = mode;
  args.o = o.data();
  args.finalState = S.f32();
  args.finalZ = p.normalize ? z.f32() : nullptr;
  device.recurrenceForward(args);
  return {o.host(), S.host(), p.normalize ? z.host() : Array()};
}

void compare(const Problem& p, const Result& result, DType dtype) {
  const reference::Forward expected = reference::forward(p);
  const std::string name = describe(p, dtype);
  expectNear(name + ": o", result.o, {expected.o, {}}, Rows::Tokens, kOutputLimit);
  expectNear(name + ": finalState", result.finalState, {expected.finalState, {}}, Rows::States, kStateLimit);
  if (p.normalize) expectNear(name + ": finalZ", result.finalZ, {expected.finalZ, {}}, Rows::States, kStateLimit);
}

void expectForward(Problem p, uint64_t seed, DType dtype = DType::F32, DType gateDType = DType::F32) {
  drawArguments(p, seed, dtype, gateDType);
  Device device;
  compare(p, run(device, p, dtype, gateDType), dtype);
}

constexpr int32_t kGates[] = {RANKONE_GATE_NONE, RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL};

TEST("token form: every cell and dtype") {
  uint64_t seed = 0;
  for (DType dtype : {DType::F32, DType::BF16, DType::F16})
    for (int32_t gate : kGates)
      for (int64_t n : {0, 1, 2, 3}) {  // 0: additive
        const Problem p = cell(n ? RANKONE_DELTA : RANKONE_ADDITIVE, gate, n ? n : 1);
        ++seed;
        expectForward(p, seed, dtype, seed % 2 ? DType::F32 : dtype);
      }
}

TEST("token form: every activation") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL})
    for (double lowerBound : {0.0, -3.0})
      for (bool bias : {false, true}) {
        Problem p = cell(RANKONE_DELTA, gate, 2);
        p.H = 2;
        p.HV = 6;
        p.K = 33;
        p.qkL2norm = true;
        p.lowerBound = lowerBound;
        p.aLog.resize(6);
        if (bias) p.dtBias.resize(gate == RANKONE_GATE_TOKEN ? 6 : 6 * 33);
        p.betaActivation = bias ? RANKONE_BETA_SIGMOID : RANKONE_BETA_SIGMOID2;
        expectForward(p, 7, bias ? DType::BF16 : DType::F32, bias ? DType::BF16 : DType::F32);
      }
  Problem hgrn = cell(RANKONE_ADDITIVE, RANKONE_GATE_CHANNEL);
  hgrn.keysFromGates = true;
  expectForward(hgrn, 8);
  Problem mamba = cell(RANKONE_ADDITIVE, RANKONE_GATE_TOKEN);
  mamba.valueScale.resize(1);
  expectForward(mamba, 9, DType::BF16);
}

TEST("token form: norms of rows whose squares overflow") {
  for (DType dtype : {DType::F32, DType::BF16}) {
    Problem p = cell(RANKONE_DELTA, RANKONE_GATE_NONE);
    p.qkL2norm = true;
    drawArguments(p, 12, dtype, DType::F32);
    for (size_t i = 0; i < p.q.size(); ++i) {
      p.q[i] *= i / p.K % 2 ? 0x1p80 : 1;
      p.k[i] *= i / p.K % 3 ? 0x1p90 : 1;
    }
    Device device;
    compare(p, run(device, p, dtype, DType::F32), dtype);
  }
}

TEST("token form: sizes") {
  const int64_t sizes[][2] = {{1, 1},    {2, 3},    {31, 17},  {32, 16},  {64, 64}, {65, 33},  {96, 5},  {100, 80},
                              {128, 48}, {129, 20}, {192, 64}, {200, 31}, {255, 2}, {256, 50}, {3, 256}, {20, 131}};
  for (const auto& [K, V] : sizes)
    for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA}) {
      Problem p = cell(update, RANKONE_GATE_CHANNEL);
      p.T = 3;
      p.HV = 1;
      p.K = K;
      p.V = V;
      expectForward(p, 10 + K, V % 2 ? DType::F32 : DType::BF16);
    }
}

TEST("token form: lengths, from none to more than a stage holds") {
  for (int64_t n : {1, 3, 5, 8})
    for (int64_t T : {0, 1, 2, 7, 8, 9, 17}) {
      Problem p = cell(RANKONE_DELTA, RANKONE_GATE_TOKEN, n);
      p.B = 2;
      p.T = T;
      expectForward(p, 40 + T);
    }
}

TEST("token form: packed sequences, with empty ones") {
  for (int32_t gate : kGates) {
    Problem p = cell(RANKONE_DELTA, gate, 2);
    p.cuSeqlens = {0, 0, 1, 12, 12, 17};
    p.T = 17;
    p.H = 2;
    p.HV = 4;
    expectForward(p, 50);
    p.initialState.clear();
    expectForward(p, 51);
  }
}

// e^g rounded to float32 would be off by 1e-5 after a few hundred tokens.
TEST("token form: long sequences of slow gates") {
  for (int32_t gate : {RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    Problem p = cell(RANKONE_ADDITIVE, gate);
    p.T = 512;
    p.K = p.V = 8;
    drawArguments(p, 60, DType::F32, DType::F32);
    for (double& g : p.g) g = -3e-5f;
    Device device;
    compare(p, run(device, p, DType::F32, DType::F32), DType::F32);
  }
}

TEST("token form: gates that clear, and gates that grow") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    Problem p = cell(RANKONE_DELTA, gate);
    p.K = 40;
    drawArguments(p, 70, DType::F32, DType::F32);
    for (size_t i = 0; i < p.g.size(); ++i) {
      if (i % 7 == 3) p.g[i] = -105;
      if (i % 11 == 5) p.g[i] = -INFINITY;
      if (i % 5 == 2) p.g[i] = 0.75;
      if (i % 13 == 1) p.g[i] = -103;
    }
    Device device;
    compare(p, run(device, p, DType::F32, DType::F32), DType::F32);
  }
}

// A slice of the batch's arguments as a problem of its own.
Problem sequenceOf(const Problem& p, int64_t s) {
  Problem one = p;
  const int64_t first = p.start(s), T = p.start(s + 1) - first;
  one.cuSeqlens.clear();
  one.B = 1;
  one.T = T;
  const auto cut = [&](Values& values, int64_t perToken) {
    if (!values.empty()) values = Values(values.begin() + first * perToken, values.begin() + (first + T) * perToken);
  };
  cut(one.q, p.H * p.K);
  cut(one.k, p.n * p.H * p.K);
  cut(one.v, p.n * p.HV * p.V);
  cut(one.beta, p.n * p.HV);
  if (p.gate != RANKONE_GATE_HEAD) cut(one.g, p.gate == RANKONE_GATE_CHANNEL ? p.HV * p.K : p.HV);
  const int64_t size = p.HV * p.K * p.V;
  if (!p.initialState.empty())
    one.initialState = Values(p.initialState.begin() + s * size, p.initialState.begin() + (s + 1) * size);
  return one;
}

void expectSame(const char* what, const Array& whole, int64_t from, const Array& part) {
  for (int64_t i = 0; i < part.size(); ++i)
    check(whole.at(from + i) == part.at(i), "%s: %.9g at %d, %.9g alone", what, whole.at(from + i), static_cast<int>(i),
          part.at(i));
}

// Blocks are shared out by how many heads there are: the bits must not show it.
TEST("token form: a sequence's bits do not depend on the rest of the batch") {
  for (int32_t gate : {RANKONE_GATE_NONE, RANKONE_GATE_CHANNEL}) {
    Problem p = cell(RANKONE_DELTA, gate);
    p.K = 70;
    p.V = 72;
    p.HV = 3;
    p.T = 30;
    p.cuSeqlens = {0, 9, 10, 10};
    for (int64_t i = 0; i < 10; ++i) p.cuSeqlens.push_back(12 + 2 * i);
    drawArguments(p, 80, DType::BF16, DType::F32);
    Device device;
    const Result whole = run(device, p, DType::BF16, DType::F32);
    for (int64_t s : {0, 1, 5}) {
      const Result alone = run(device, sequenceOf(p, s), DType::BF16, DType::F32);
      expectSame("o", whole.o, p.start(s) * p.HV * p.V, alone.o);
      expectSame("finalState", whole.finalState, s * p.HV * p.K * p.V, alone.finalState);
    }
  }
}

// One token after the other, in place in rows of a pool that are chosen in device memory, and as a graph that is
// replayed for other tokens and other rows.
TEST("token form: decode in a pool, launched or replayed as a graph, has the bits of one long call") {
  for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
    for (int64_t V : {20, 21}) {
      Problem p = cell(update, RANKONE_GATE_CHANNEL, update == RANKONE_DELTA ? 2 : 1);
      p.B = 3;
      p.V = V;
      p.T = 5;
      p.qkL2norm = true;
      drawArguments(p, 90, DType::BF16, DType::BF16);
      Device device;
      const Result whole = run(device, p, DType::BF16, DType::BF16);

      constexpr int64_t kSlots = 7;
      const int64_t size = p.HV * p.K * p.V, rows[] = {5, 0, 3};
      Array pool({kSlots, p.HV, p.K, p.V}), rowList({3}, DType::I32);
      for (int64_t i = 0; i < pool.size(); ++i) pool.set(i, 1e30);
      for (int64_t s = 0; s < 3; ++s) {
        rowList.set(s, static_cast<double>(rows[s]));
        for (int64_t i = 0; i < size; ++i) pool.set(rows[s] * size + i, p.initialState[s * size + i]);
      }
      const DeviceArray states(device, pool);
      DeviceArray stateRows(device, Array({3}, DType::I32));
      Problem token = p;
      token.T = 1;
      token.initialState.clear();
      // The arguments of token t of all three sequences.
      const auto at = [&](int64_t t) {
        Problem x = token;
        const auto pick = [&](Values& to, const Values& from, int64_t perToken) {
          to.clear();
          for (int64_t b = 0; b < p.B; ++b)
            to.insert(to.end(), from.begin() + (b * p.T + t) * perToken, from.begin() + (b * p.T + t + 1) * perToken);
        };
        pick(x.q, p.q, p.H * p.K);
        pick(x.k, p.k, p.n * p.H * p.K);
        pick(x.v, p.v, p.n * p.HV * p.V);
        pick(x.g, p.g, p.HV * p.K);
        if (update == RANKONE_DELTA) pick(x.beta, p.beta, p.n * p.HV);
        return x;
      };
      DeviceProblem on(device, at(0), DType::BF16, DType::BF16);
      const DeviceArray o(device, {p.B, 1, p.HV, p.V}, DType::BF16);
      RankoneRecurrenceForward args = {};
      args.problem = on.problem;
      args.problem.initialState = args.finalState = states.f32();
      args.problem.stateRows = stateRows.as<int32_t>();
      args.o = o.data();
      RankoneGraph* graph = nullptr;
      RankoneError error;
      check(backend().beginCapture(device.stream(), &error) == 0, "%s", error.reason);
      device.recurrenceForward(args);
      check(backend().endCapture(device.stream(), &graph, &error) == 0, "%s", error.reason);
      stateRows.upload(rowList);
      for (int64_t t = 0; t < p.T; ++t) {
        const Problem x = at(t);
        on.q.upload(Array(on.q.shape(), x.q, DType::BF16));
        on.k.upload(Array(on.k.shape(), x.k, DType::BF16));
        on.v.upload(Array(on.v.shape(), x.v, DType::BF16));
        on.g.upload(Array(on.g.shape(), x.g, DType::BF16));
        if (on.beta.present()) on.beta.upload(Array(on.beta.shape(), x.beta, DType::BF16));
        if (t % 2)
          check(backend().launchGraph(graph, &error) == 0, "%s", error.reason);
        else
          device.recurrenceForward(args);
        const Array out = o.host();
        for (int64_t b = 0; b < p.B; ++b)
          for (int64_t i = 0; i < p.HV * p.V; ++i)
            check(out.at(b * p.HV * p.V + i) == whole.o.at((b * p.T + t) * p.HV * p.V + i), "o differs at token %d",
                  static_cast<int>(t));
      }
      backend().releaseGraph(graph);
      const Array after = states.host();
      for (int64_t slot = 0; slot < kSlots; ++slot)
        for (int64_t i = 0; i < size; ++i) {
          double expected = 1e30f;
          for (int64_t s = 0; s < 3; ++s)
            if (rows[s] == slot) expected = whole.finalState.at(s * size + i);
          check(after.at(slot * size + i) == expected, "slot %d differs", static_cast<int>(slot));
        }
    }
}

// Writes NaN into one element of an argument; f(token, head, column of V) says which outputs may show it.
template <class F>
void expectConfined(const char* what, Problem p, Values Problem::*argument, int64_t element, F&& depends) {
  (p.*argument)[element] = NAN;
  Device device;
  const Result result = run(device, p, DType::F32, DType::F32);
  for (int64_t i = 0; i < result.o.size(); ++i) {
    const int64_t c = i % p.V, h = i / p.V % p.HV, t = i / p.V / p.HV;
    check(std::isnan(result.o.at(i)) == depends(t, h, c), "%s: o of token %d, head %d, column %d", what,
          static_cast<int>(t), static_cast<int>(h), static_cast<int>(c));
  }
}

TEST("token form: a NaN reaches what depends on it, until a gate clears it") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    Problem p = cell(RANKONE_DELTA, gate);
    p.H = 2;
    p.HV = 4;
    p.K = 5;
    p.V = 18;
    drawArguments(p, 100, DType::F32, DType::F32);
    const int64_t width = gate == RANKONE_GATE_CHANNEL ? p.K : 1, cleared = 8;
    for (int64_t i = 0; i < p.HV * width; ++i) p.g[cleared * p.HV * width + i] = -200;
    const auto until = [&](int64_t t, int64_t from) { return t >= from && t < cleared; };
    expectConfined("v", p, &Problem::v, (3 * p.HV + 2) * p.V + 17,
                   [&](int64_t t, int64_t h, int64_t c) { return until(t, 3) && h == 2 && c == 17; });
    expectConfined("k", p, &Problem::k, (4 * p.H + 1) * p.K + 2,
                   [&](int64_t t, int64_t h, int64_t) { return until(t, 4) && h >= 2; });
    expectConfined("q", p, &Problem::q, (4 * p.H + 1) * p.K + 2,
                   [&](int64_t t, int64_t h, int64_t) { return t == 4 && h >= 2; });
    expectConfined("g", p, &Problem::g, (5 * p.HV + 1) * width,
                   [&](int64_t t, int64_t h, int64_t) { return until(t, 5) && h == 1; });
    expectConfined("beta", p, &Problem::beta, 5 * p.HV + 3,
                   [&](int64_t t, int64_t h, int64_t) { return until(t, 5) && h == 3; });
    expectConfined("initialState", p, &Problem::initialState, (p.K + 4) * p.V + 7,
                   [&](int64_t t, int64_t h, int64_t c) { return until(t, 0) && h == 1 && c == 7; });
  }
}

TEST("token form: normalize") {
  for (int64_t T : {0, 1, 64, 70})
    for (bool packed : {false, true}) {
      Problem p = cell(RANKONE_ADDITIVE, RANKONE_GATE_NONE);
      p.B = packed ? 1 : 2;
      p.T = T;
      p.H = 2;
      p.HV = 4;
      p.K = 37;
      p.V = 8;
      p.normalize = true;
      p.initialZ.resize(1);
      if (packed) p.cuSeqlens = {0, 0, T / 65, T};
      drawArguments(p, 110, DType::F32, DType::F32);
      // Divisors far from zero.
      for (Values* x : {&p.q, &p.k})
        for (double& value : *x) value = static_cast<float>(std::fabs(value));
      Device device;
      compare(p, run(device, p, DType::F32, DType::F32), DType::F32);
    }
}

// In mode 'auto' a sequence of at most 16 updates takes the token form, whatever the others are.
TEST("forward: long and short sequences of one batch, each with the bits that it has alone") {
  for (bool normalize : {false, true}) {
    Problem p = cell(normalize ? RANKONE_ADDITIVE : RANKONE_DELTA, normalize ? RANKONE_GATE_NONE : RANKONE_GATE_TOKEN,
                     normalize ? 1 : 2);
    p.H = 2;
    p.HV = 4;
    p.K = 24;
    p.V = 32;
    p.normalize = normalize;
    p.cuSeqlens = {0, 3, 73, 73, 81, 90, 106};
    p.T = 106;
    drawArguments(p, 120, DType::BF16, DType::F32);
    for (Values* x : {&p.q, &p.k})
      for (double& value : *x) value = normalize ? std::fabs(value) : value;
    Device device;
    const Result whole = run(device, p, DType::BF16, DType::F32, RANKONE_MODE_AUTO),
                 exact = run(device, p, DType::BF16, DType::F32);
    const reference::Forward expected = reference::forward(p);
    expectNear("o", whole.o, {expected.o, {}}, Rows::Tokens, kBf16OutputLimit);
    expectNear("finalState", whole.finalState, {expected.finalState, {}}, Rows::States, kBf16StateLimit);
    if (normalize) expectNear("finalZ", whole.finalZ, {expected.finalZ, {}}, Rows::States, kStateLimit);
    for (int64_t s = 0; s < p.sequences(); ++s) {
      const int64_t length = p.start(s + 1) - p.start(s), size = p.HV * p.K * p.V;
      const Result alone = run(device, sequenceOf(p, s), DType::BF16, DType::F32, RANKONE_MODE_AUTO);
      expectSame("o", whole.o, p.start(s) * p.HV * p.V, alone.o);
      expectSame("finalState", whole.finalState, s * size, alone.finalState);
      bool same = true;
      for (int64_t i = 0; i < size; ++i)
        same = same && whole.finalState.at(s * size + i) == exact.finalState.at(s * size + i);
      check(same == (length * p.n <= 16), "sequence %d takes the other form", static_cast<int>(s));
    }
  }
}

TEST("token form: what is not supported is an error before anything is written") {
  Problem p = cell(RANKONE_ADDITIVE, RANKONE_GATE_NONE);
  p.T = 1;
  drawArguments(p, 1, DType::F32, DType::F32);
  Device device;
  DeviceProblem on(device, p, DType::F32, DType::F32);
  for (const auto& [K, V, n] : {std::array<int64_t, 3>{257, 4, 1}, {4, 257, 1}, {4, 4, 9}}) {
    RankoneRecurrenceForward args = {};
    args.problem = on.problem;
    args.problem.K = K;
    args.problem.V = V;
    args.problem.n = n;
    RankoneError error;
    check(backend().recurrenceForward(device.stream(), &args, &error) != 0, "no error");
  }
}

}  // namespace
}  // namespace rankone::test
