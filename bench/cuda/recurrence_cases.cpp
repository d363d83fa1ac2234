// Shapes of the recurrence: prefill, backward and decode.
#include <cmath>
#include <cstdio>

#include "bench.h"

namespace rankone::bench {
namespace {

struct Case {
  const char* name;
  int64_t B, T, H, HV, K, V, n;
  int32_t gate, update;
};

const Case kForward[] = {
    // The shapes that other libraries publish.
    {"gatedDeltaNet 1x8192 2/8", 1, 8192, 2, 8, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaNet 1x32768 16/16", 1, 32768, 16, 16, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaNet 1x8192 16/32", 1, 8192, 16, 32, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaNet 4x8192 16/64", 4, 8192, 16, 64, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaNet 8x4096 32/32", 8, 4096, 32, 32, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaProduct n=2 1x8192 16/32", 1, 8192, 16, 32, 128, 128, 2, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaProduct n=3 1x8192 16/32", 1, 8192, 16, 32, 128, 128, 3, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gla 1x32768 16/16", 1, 32768, 16, 16, 128, 128, 1, RANKONE_GATE_CHANNEL, RANKONE_ADDITIVE},
    {"linearAttention 1x8192 96/96", 1, 8192, 96, 96, 128, 128, 1, RANKONE_GATE_NONE, RANKONE_ADDITIVE},
    {"kimiDeltaAttention 1x8192 64/64", 1, 8192, 64, 64, 128, 128, 1, RANKONE_GATE_CHANNEL, RANKONE_DELTA},
    {"mamba2 1x8192 1/128 64", 1, 8192, 1, 128, 128, 64, 1, RANKONE_GATE_TOKEN, RANKONE_ADDITIVE},
    // The rest of the grid, and other widths.
    {"retention 1x8192 32/32", 1, 8192, 32, 32, 128, 128, 1, RANKONE_GATE_HEAD, RANKONE_ADDITIVE},
    {"deltaNet 1x8192 32/32", 1, 8192, 32, 32, 128, 128, 1, RANKONE_GATE_NONE, RANKONE_DELTA},
    {"gatedDeltaNet 4x4096 16/16 64", 4, 4096, 16, 16, 64, 64, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaNet 1x8192 8/8 256", 1, 8192, 8, 8, 256, 256, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
};

const Case kBackward[] = {
    {"gatedDeltaNet 1x8192 16/32", 1, 8192, 16, 32, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gla 1x8192 16/16", 1, 8192, 16, 16, 128, 128, 1, RANKONE_GATE_CHANNEL, RANKONE_ADDITIVE},
    {"kimiDeltaAttention 1x8192 16/16", 1, 8192, 16, 16, 128, 128, 1, RANKONE_GATE_CHANNEL, RANKONE_DELTA},
    {"linearAttention 1x8192 32/32", 1, 8192, 32, 32, 128, 128, 1, RANKONE_GATE_NONE, RANKONE_ADDITIVE},
    {"gatedDeltaProduct n=2 1x8192 16/32", 1, 8192, 16, 32, 128, 128, 2, RANKONE_GATE_TOKEN, RANKONE_DELTA},
};

const Case kDecode[] = {
    {"gatedDeltaNet 1 16/32", 1, 1, 16, 32, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaNet 32 16/32", 32, 1, 16, 32, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gatedDeltaNet 256 16/32", 256, 1, 16, 32, 128, 128, 1, RANKONE_GATE_TOKEN, RANKONE_DELTA},
    {"gla 256 16/16", 256, 1, 16, 16, 128, 128, 1, RANKONE_GATE_CHANNEL, RANKONE_ADDITIVE},
    {"kimiDeltaAttention 256 16/16", 256, 1, 16, 16, 128, 128, 1, RANKONE_GATE_CHANNEL, RANKONE_DELTA},
};

Case tinyOf(Case c) {
  if (c.T > 1) c.T = 70;
  if (c.B > 2) c.B = 2;
  c.HV = c.HV > c.H ? 2 : 1;
  c.H = 1;
  c.K = c.K > 32 ? 32 : c.K;
  c.V = c.V > 32 ? 32 : c.V;
  return c;
}

struct Sizes {
  int64_t q, k, v, o, g, beta, state;
};
Sizes sizesOf(const Case& c) {
  const int64_t tokens = c.B * c.T, gates = c.gate == RANKONE_GATE_CHANNEL ? c.K : c.gate == RANKONE_GATE_TOKEN ? 1 : 0;
  return {tokens * c.H * c.K,
          tokens * c.n * c.H * c.K,
          tokens * c.n * c.HV * c.V,
          tokens * c.HV * c.V,
          c.gate == RANKONE_GATE_HEAD ? c.HV : tokens * c.HV * gates,
          c.update == RANKONE_DELTA ? tokens * c.n * c.HV : 0,
          c.B * c.HV * c.K * c.V};
}

// Operations of the chunk form at 64 tokens a chunk, and every argument and result touched once.
Work forwardWork(const Case& c) {
  const Sizes s = sizesOf(c);
  const double C = 64, K = static_cast<double>(c.K), V = static_cast<double>(c.V), n = static_cast<double>(c.n);
  const double perToken = c.update == RANKONE_DELTA
                              ? n * (4 * K * V + 2 * C * (K + V) + C * C) + 2 * K * V + 2 * C * (K + V)
                              : 4 * K * V + 2 * C * (K + V);
  return {2.0 * static_cast<double>(s.q + s.k + s.v + s.o) + 4.0 * static_cast<double>(s.g + s.beta),
          static_cast<double>(c.B * c.T * c.HV) * perToken};
}

RankoneRecurrence problemOf(Bench& bench, const Case& c) {
  const Sizes s = sizesOf(c);
  const double unit = std::sqrt(3 / static_cast<double>(c.K));  // rows of length 1
  RankoneRecurrence p = {};
  p.B = c.B, p.T = c.T, p.H = c.H, p.HV = c.HV, p.K = c.K, p.V = c.V, p.n = c.n, p.N = c.B;
  p.update = c.update, p.gate = c.gate;
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.K)));
  p.q = bench.random(s.q, -unit, unit);
  p.k = bench.random(s.k, -unit, unit);
  p.v = bench.random(s.v, -1, 1);
  if (s.g) p.g = bench.random(s.g, -0.1, 0, RANKONE_F32);
  if (s.beta) p.beta = bench.random(s.beta, 0, 1, RANKONE_F32);
  return p;
}

void forward(Bench& bench, const Case& shape) {
  const std::string name = std::string("forward ") + shape.name;
  if (!bench.wanted(name)) return;
  const Case c = bench.tiny() ? tinyOf(shape) : shape;
  const Work work = forwardWork(c);
  const int sets = bench.sets(work.bytes);
  std::vector<RankoneRecurrenceForward> args(sets);
  for (RankoneRecurrenceForward& a : args) {
    a.problem = problemOf(bench, c);
    a.o = bench.bytes(sizesOf(c).o * 2, false);
  }
  bench.time({name, "", 0, 0, 0, work}, sets, false, [&](int i) {
    RankoneError error;
    expectDone(backend().recurrenceForward(bench.stream(), &args[i], &error), error, "recurrenceForward");
  });
  bench.expectFinite("o", args[0].o, sizesOf(c).o, RANKONE_BF16);
  bench.releaseAll();
}

// Bytes: the forward's arguments and dO read, float32 gradients written. Operations as of two and a half forwards.
void backward(Bench& bench, const Case& shape) {
  const std::string name = std::string("backward ") + shape.name;
  if (!bench.wanted(name)) return;
  const Case c = bench.tiny() ? tinyOf(shape) : shape;
  const Sizes s = sizesOf(c);
  Work work = forwardWork(c);
  work.bytes += 4.0 * static_cast<double>(s.q + s.k + s.v + s.g + s.beta);
  work.operations *= 2.5;
  const int sets = bench.sets(work.bytes);
  std::vector<RankoneRecurrenceBackward> args(sets);
  for (RankoneRecurrenceBackward& a : args) {
    RankoneRecurrenceForward f = {};
    f.problem = a.problem = problemOf(bench, c);
    f.o = bench.bytes(s.o * 2, false);
    f.saved = bench.bytes(backend().savedBytes(&f.problem), false);
    RankoneError error;
    expectDone(backend().recurrenceForward(bench.stream(), &f, &error), error, "recurrenceForward");
    a.saved = f.saved;
    a.dO = bench.random(s.o, -1, 1);
    a.dq = bench.f32(s.q), a.dk = bench.f32(s.k), a.dv = bench.f32(s.v);
    if (s.g) a.dg = bench.f32(s.g);
    if (s.beta) a.dbeta = bench.f32(s.beta);
  }
  const auto call = [&](int i) {
    RankoneError error;
    expectDone(backend().recurrenceBackward(bench.stream(), &args[i], &error), error, "recurrenceBackward");
  };
  bench.time({name, "", 0, 0, 0, work}, sets, false, call);
  bench.expectFinite("dk", args[0].dk, s.k, RANKONE_F32);
  for (RankoneRecurrenceBackward& a : args) a.saved = nullptr;
  bench.time({name + ", recomputing", "", 0, 0, 0, work}, sets, false, call);
  bench.releaseAll();
}

// A token of every sequence, its state in a pool of twice the rows. Bytes: states read and written, mostly.
void decode(Bench& bench, const Case& shape) {
  const std::string name = std::string("decode ") + shape.name;
  if (!bench.wanted(name)) return;
  const Case c = bench.tiny() ? tinyOf(shape) : shape;
  const Sizes s = sizesOf(c);
  Work work = forwardWork(c);
  work.bytes += 8.0 * static_cast<double>(s.state);
  work.operations = 6.0 * static_cast<double>(s.state);
  const int sets = bench.sets(work.bytes);
  std::vector<int32_t> rows(c.B);
  for (int64_t i = 0; i < c.B; ++i) rows[i] = static_cast<int32_t>((2 * i + 1) % (2 * c.B));
  std::vector<RankoneRecurrenceForward> args(sets);
  for (RankoneRecurrenceForward& a : args) {
    a.problem = problemOf(bench, c);
    a.problem.stateRows = static_cast<const int32_t*>(bench.upload(rows.data(), rows.size() * 4));
    a.finalState = bench.f32(2 * s.state);
    a.problem.initialState = a.finalState;
    a.o = bench.bytes(s.o * 2, false);
  }
  bench.time({name, "", 0, 0, 0, work}, sets, true, [&](int i) {
    RankoneError error;
    expectDone(backend().recurrenceForward(bench.stream(), &args[i], &error), error, "recurrenceForward");
  });
  bench.expectFinite("o", args[0].o, s.o, RANKONE_BF16);
  bench.releaseAll();
}

}  // namespace

void recurrenceCases(Bench& bench) {
  for (const Case& c : kForward) forward(bench, c);
  for (const Case& c : kBackward) backward(bench, c);
  for (const Case& c : kDecode) decode(bench, c);
}

}  // namespace rankone::bench
