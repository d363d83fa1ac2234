// The form in chunks on the tensor cores: every cell against float64, by the contract's rows for bf16 arithmetic.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "recurrence_case.h"

namespace rankone::test {
namespace {

using reference::Problem;

constexpr int32_t kGates[] = {RANKONE_GATE_NONE, RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL};

Problem cell(int32_t update, int32_t gate, int64_t n = 1) {
  Problem p;
  p.update = update;
  p.gate = gate;
  p.n = n;
  p.T = 80;
  p.K = 16;
  p.V = 16;
  p.scale = 0.25;
  p.initialState.resize(1);
  return p;
}

void expectForward(Problem p, uint64_t seed, const std::function<void(Problem&)>& change = {}) {
  drawArguments(p, seed, DType::BF16, DType::F32);
  if (change) change(p);
  Device device;
  expectChunks(p, forwardInChunks(device, p));
}

TEST("chunk form: every cell") {
  uint64_t seed = 1;
  for (int32_t gate : kGates) {
    expectForward(cell(RANKONE_ADDITIVE, gate), seed++);
    for (int64_t n : {1, 2, 3, 5}) expectForward(cell(RANKONE_DELTA, gate, n), seed++);
  }
}

TEST("chunk form: updates of a token that leave a chunk rows without use") {
  uint64_t seed = 40;
  for (int64_t n : {4, 6, 7, 8}) {
    expectForward(cell(RANKONE_DELTA, RANKONE_GATE_TOKEN, n), seed++);
    expectForward(cell(RANKONE_DELTA, RANKONE_GATE_CHANNEL, n), seed++);
  }
}

TEST("chunk form: lengths") {
  uint64_t seed = 60;
  for (int64_t T : {0, 1, 63, 64, 65, 130})
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(RANKONE_DELTA, gate);
      p.T = T;
      expectForward(p, seed++);
    }
}

TEST("chunk form: sizes of K and V") {
  uint64_t seed = 80;
  const int64_t sizes[][2] = {{1, 1},     {33, 7},   {64, 96},  {96, 33}, {100, 64},
                              {128, 100}, {192, 16}, {256, 40}, {250, 3}};
  for (const auto& size : sizes)
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(RANKONE_DELTA, gate);
      p.K = size[0];
      p.V = size[1];
      p.T = 66;
      p.scale = 1 / std::sqrt(static_cast<double>(p.K));
      p.qkL2norm = p.K == 1;  // else its updates may diverge
      expectForward(p, seed++);
    }
  for (int64_t K : {128, 256})
    for (int32_t gate : {RANKONE_GATE_HEAD, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(RANKONE_ADDITIVE, gate);
      p.K = K;
      p.T = 66;
      expectForward(p, seed++);
    }
}

TEST("chunk form: grouped heads, packed sequences with empty ones, norms") {
  uint64_t seed = 120;
  for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
    for (int32_t gate : kGates)
      for (bool packed : {false, true}) {
        Problem p = cell(update, gate, update == RANKONE_DELTA ? 2 : 1);
        p.H = 2;
        p.HV = 4;
        p.T = packed ? 90 : 40;
        p.B = packed ? 1 : 2;
        if (packed) p.cuSeqlens = {0, 0, 33, 33, 85, 90, 90};
        p.qkL2norm = packed;
        expectForward(p, seed++);
      }
}

double rounded(double x) {
  const uint64_t bits = [x] {
    uint64_t u;
    std::memcpy(&u, &x, sizeof u);
    return u;
  }();
  constexpr int kDropped = 52 - 7;  // of float64's fraction
  const uint64_t even = bits >> kDropped & 1;
  const uint64_t to = (bits + (uint64_t{1} << (kDropped - 1)) - 1 + even) >> kDropped << kDropped;
  double y;
  std::memcpy(&y, &to, sizeof y);
  return y;
}

// The chunk form in float64 but for the operands that it rounds to bf16: one head, a gate per token or none.
reference::Forward roundedForward(const Problem& p) {
  const int64_t K = p.K, V = p.V, n = p.n, full = 64 / n;
  const bool delta = p.update == RANKONE_DELTA;
  reference::Forward out{Values(p.T * V), p.initialState, {}, {}, {}};
  Values& S = out.finalState;
  for (int64_t t0 = 0; t0 < p.T; t0 += full) {
    const int64_t tokens = std::min(full, p.T - t0), rows = tokens * n;
    const double *k = &p.k[t0 * n * K], *q = &p.q[t0 * K], *v = &p.v[t0 * n * V];
    Values G(tokens), rounds(K * V), U(rows * V), T(rows * rows), X(rows * V);
    for (int64_t t = 0; t < tokens; ++t) G[t] = (t ? G[t - 1] : 0) + (p.g.empty() ? 0 : p.g[t0 + t]);
    for (int64_t i = 0; i < K * V; ++i) rounds[i] = rounded(S[i]);
    const auto dot = [K](const double* x, const double* y) {
      double sum = 0;
      for (int64_t i = 0; i < K; ++i) sum += x[i] * y[i];
      return sum;
    };
    for (int64_t i = 0; i < rows && delta; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double x = i == j;
        for (int64_t m = j; m < i; ++m)
          x -= p.beta[t0 * n + i] * std::exp(G[i / n] - G[m / n]) * dot(k + i * K, k + m * K) * T[m * rows + j];
        T[i * rows + j] = x;
      }
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < V; ++c) {
        double x = v[i * V + c], read = 0;
        for (int64_t a = 0; a < K; ++a) read += k[i * K + a] * rounds[a * V + c];
        if (delta) x = p.beta[t0 * n + i] * (x - std::exp(G[i / n]) * read);
        X[i * V + c] = U[i * V + c] = x;
        for (int64_t j = 0; j < i && delta; ++j) U[i * V + c] += rounded(T[i * rows + j]) * rounded(X[j * V + c]);
      }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t c = 0; c < V; ++c) {
        double read = 0, sum = 0;
        for (int64_t a = 0; a < K; ++a) read += q[t * K + a] * rounds[a * V + c];
        for (int64_t j = 0; j < (t + 1) * n; ++j)
          sum += rounded(p.scale * std::exp(G[t] - G[j / n]) * dot(q + t * K, k + j * K)) * rounded(U[j * V + c]);
        out.o[(t0 + t) * V + c] = p.scale * std::exp(G[t]) * read + sum;
      }
    const double last = G[tokens - 1];
    for (int64_t a = 0; a < K; ++a)
      for (int64_t c = 0; c < V; ++c) {
        double& x = S[a * V + c];
        x *= std::exp(last);
        for (int64_t j = 0; j < rows; ++j) x += k[j * K + a] * rounded(std::exp(last - G[j / n]) * U[j * V + c]);
      }
  }
  return out;
}

// Much closer than the contract, so that a decay that is off by a token of a slow gate is seen, or a lost low part of
// the inverse. Results are float32.
TEST("chunk form: as its roundings are") {
  uint64_t seed = 140;
  for (int32_t gate : {RANKONE_GATE_NONE, RANKONE_GATE_TOKEN})
    for (int64_t n : {0, 1, 2, 3}) {
      Problem p = cell(n ? RANKONE_DELTA : RANKONE_ADDITIVE, gate, n ? n : 1);
      p.T = 64 / p.n + 10;  // roundings that fall the other way make others do so in later chunks
      p.K = p.V = 32;
      drawArguments(p, seed++, DType::BF16, DType::F32);
      for (double& g : p.g) g = Array({1}, {g * 0.05}).at(0);
      Device device;
      const ChunkErrors e = errorsOf(p, forwardInChunks(device, p, DType::F32), roundedForward(p));
      if (std::getenv("RANKONE_PRINT_ERRORS")) std::printf("\n  o %.2e, token %.2e, state %.2e", e.o, e.token, e.state);
      check(e.o <= 5e-4 && e.state <= 1e-3, "%s: o off by %.2e, finalState by %.2e", describe(p, DType::F32).c_str(),
            e.o, e.state);
    }
}

// Of K K^T and Q K^T, of resets at every place of a chunk, first and last token among them.
TEST("chunk form: resets") {
  uint64_t seed = 160;
  for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(update, gate);
      p.T = 200;
      expectForward(p, seed++, [](Problem& q) {
        const int64_t width = static_cast<int64_t>(q.g.size()) / q.T;
        Random random(7);
        for (int64_t t = 0; t < q.T; ++t)
          for (int64_t i = 0; i < width; ++i)
            if (t == 64 || t == 127 || random.below(width == 1 ? 30 : 90) == 0)
              q.g[t * width + i] = random.below(2) ? -INFINITY : -104.5;
      });
    }
}

// What a reset at a chunk's first token clears may have been anything.
TEST("chunk form: a reset clears NaN and infinities") {
  for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
    for (int32_t gate : {RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(update, gate);
      expectForward(p, 170, [](Problem& q) {
        q.initialState[3] = NAN;
        q.initialState[40] = INFINITY;
        const int64_t width = std::max<int64_t>(static_cast<int64_t>(q.g.size()) / q.T, 1);
        for (int64_t i = 0; i < width; ++i) q.g[i] = -INFINITY;
      });
    }
}

TEST("chunk form: gates that nearly clear, and gates that grow") {
  uint64_t seed = 180;
  for (double mean : {-30.0, -5.0, 0.15})
    for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
      for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
        Problem p = cell(update, gate);
        p.T = 70;
        p.K = 48;
        expectForward(p, seed++, [mean](Problem& q) {
          Random random(9);
          for (double& g : q.g)
            g = Array({1}, {mean * (mean > 0 ? 0.5 - random.uniform() : random.uniform() + 0.1)}).at(0);
        });
      }
}

// Growth beyond float32's range inside a chunk, of a state that is zero.
TEST("chunk form: nothing comes of zeros that grow") {
  for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(update, gate);
      expectForward(p, 199, [](Problem& q) {
        for (double& g : q.g) g = 3;
        for (double& x : q.k) x = 0;
        for (double& x : q.initialState) x = 0;
      });
    }
}

TEST("chunk form: betas up to 2") {
  for (int32_t gate : {RANKONE_GATE_NONE, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    Problem p = cell(RANKONE_DELTA, gate);
    p.T = 256;
    p.K = p.V = 32;
    p.qkL2norm = true;
    drawArguments(p, 200, DType::BF16, DType::F32);
    for (double& beta : p.beta) beta = Array({1}, {2 * beta}).at(0);
    Device device;
    expectChunks(p, forwardInChunks(device, p), true);
  }
}

TEST("chunk form: dtypes") {
  for (DType dtype : {DType::F16, DType::F32}) {
    Problem p = cell(RANKONE_DELTA, RANKONE_GATE_TOKEN);
    p.V = 7;
    // Rounded to bf16 before, so that the conversion is exact.
    drawArguments(p, 210, DType::BF16, DType::F32);
    if (dtype == DType::F16)
      for (Values* values : {&p.q, &p.k, &p.v})
        *values = Array({static_cast<int64_t>(values->size())}, *values, dtype).values();
    Device device;
    expectChunks(p, forwardInChunks(device, p, dtype), false, dtype);
  }
}

Problem packedCell(int32_t update, int32_t gate, int64_t K, int64_t n) {
  Problem p = cell(update, gate, n);
  p.HV = 2;
  p.K = K;
  p.T = 150;
  p.cuSeqlens = {0, 70, 70, 75, 150};
  drawArguments(p, 220 + static_cast<uint64_t>(K), DType::BF16, DType::F32);
  return p;
}

// One chunk or all of them prepared at once; one or two in shared memory, blocks of 32 or 16 columns, as devices allow.
TEST("chunk form: the same bits with any workspace and shared memory") {
  for (int64_t K : {16, 200})
    for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
      for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
        const Problem p = packedCell(update, gate, K, update == RANKONE_DELTA ? 3 : 1);
        Device device;
        const ChunkResult whole = forwardInChunks(device, p);
        const auto same = [&](Device& other) {
          const ChunkResult again = forwardInChunks(other, p);
          check(whole.o.sameBits(again.o) && whole.finalState.sameBits(again.finalState), "%s: other bits",
                describe(p, DType::BF16).c_str());
        };
        {
          const Setting oneChunk("RANKONE_CUDA_WORKSPACE", "1");
          same(device);
        }
        for (const char* capability : {"86", "90"}) {
          const Setting emulated("RANKONE_EMULATED_CAPABILITY", capability);
          Device other;
          if (K > 128 && update == RANKONE_DELTA && gate == RANKONE_GATE_CHANNEL && other.info().major == 8 &&
              other.info().minor == 6) {
            expectChunks(p, forwardInChunks(other, p));  // too little shared memory: computed in float32
            continue;
          }
          same(other);
        }
      }
}

TEST("chunk form: a sequence's bits do not depend on the others") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    const Problem p = packedCell(RANKONE_DELTA, gate, 16, 2);
    Device device;
    const ChunkResult whole = forwardInChunks(device, p);
    for (int64_t s = 0; s < p.sequences(); ++s) {
      Problem one = p;
      const int64_t first = p.start(s), end = p.start(s + 1), size = p.HV * p.K * p.V;
      one.T = end - first;
      one.cuSeqlens.clear();
      const auto part = [&](Values& x, int64_t tokens) {
        const int64_t each = static_cast<int64_t>(x.size()) / tokens;
        x = Values(x.begin() + first * each, x.begin() + end * each);
      };
      for (Values* x : {&one.q, &one.k, &one.v, &one.g, &one.beta}) part(*x, p.T);
      one.initialState = Values(p.initialState.begin() + s * size, p.initialState.begin() + (s + 1) * size);
      if (one.T == 0) continue;
      const ChunkResult alone = forwardInChunks(device, one);
      for (int64_t i = 0; i < alone.o.size(); ++i)
        check(alone.o.at(i) == whole.o.at(first * p.HV * p.V + i), "o of sequence %d", static_cast<int>(s));
      for (int64_t i = 0; i < size; ++i)
        check(alone.finalState.at(i) == whole.finalState.at(s * size + i), "state of sequence %d", static_cast<int>(s));
    }
  }
}

TEST("chunk form: states in rows of a pool, in place") {
  Problem p = cell(RANKONE_DELTA, RANKONE_GATE_TOKEN);
  p.B = 3;
  p.V = 20;
  drawArguments(p, 230, DType::BF16, DType::F32);
  Device device;
  const ChunkResult expected = forwardInChunks(device, p);
  const int64_t size = p.HV * p.K * p.V, rows[] = {4, 0, 2};
  Array pool({5, p.HV, p.K, p.V});
  for (int64_t i = 0; i < pool.size(); ++i) pool.set(i, 7);
  for (int64_t s = 0; s < 3; ++s)
    for (int64_t i = 0; i < size; ++i) pool.set(rows[s] * size + i, p.initialState[s * size + i]);
  const DeviceProblem on(device, p, DType::BF16, DType::F32);
  const DeviceArray states(device, pool), indices(device, Array({3}, {4, 0, 2}, DType::I32));
  const DeviceArray o(device, {p.B, p.T, p.HV, p.V}, DType::BF16);
  RankoneRecurrenceForward args = {};
  args.problem = on.problem;
  args.problem.mode = RANKONE_MODE_CHUNK;
  args.problem.compute = RANKONE_COMPUTE_BF16;
  args.problem.initialState = states.f32();
  args.problem.stateRows = indices.as<int32_t>();
  args.o = o.data();
  args.finalState = states.f32();
  device.recurrenceForward(args);
  check(o.host().sameBits(expected.o), "o");
  const Array after = states.host();
  for (int64_t s = 0; s < 3; ++s)
    for (int64_t i = 0; i < size; ++i)
      check(after.at(rows[s] * size + i) == expected.finalState.at(s * size + i), "state of sequence %d",
            static_cast<int>(s));
  for (int64_t row : {1, 3})
    for (int64_t i = 0; i < size; ++i) check(after.at(row * size + i) == 7, "row %d", static_cast<int>(row));
}

// Few heads and 64 chunks and more: the sequence is cut, its pieces are scanned at the same time.
Problem longCell(int32_t update, int32_t gate) {
  Problem p = cell(update, gate, update == RANKONE_DELTA ? 8 : 1);
  p.T = update == RANKONE_DELTA ? 530 : 4200;
  p.K = 40;
  p.scale = 1;
  drawArguments(p, 250, DType::BF16, DType::F32);
  for (double& g : p.g) g *= update == RANKONE_DELTA ? 0.1 : 0.003;  // so that a piece hears of those before
  return p;
}

TEST("chunk form: pieces of a long sequence") {
  for (int32_t gate : {RANKONE_GATE_NONE, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    const Problem p = longCell(RANKONE_DELTA, gate);
    Device device;
    const ChunkResult whole = forwardInChunks(device, p);
    expectChunks(p, whole);
    if (gate == RANKONE_GATE_NONE) continue;
    const Setting turns("RANKONE_CUDA_WORKSPACE", "200000");
    const ChunkResult again = forwardInChunks(device, p);
    check(whole.o.sameBits(again.o) && whole.finalState.sameBits(again.finalState), "other bits in several turns");
  }
  const Problem p = longCell(RANKONE_ADDITIVE, RANKONE_GATE_TOKEN);
  Device device;
  expectChunks(p, forwardInChunks(device, p));
}

TEST("chunk form: a reset clears NaN for the pieces behind it") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    Problem p = longCell(RANKONE_DELTA, gate);
    const int64_t width = static_cast<int64_t>(p.g.size()) / p.T;
    for (int64_t i = 0; i < width; ++i) p.g[272 * width + i] = -INFINITY;
    const reference::Forward expected = reference::forward(p);
    p.initialState[5] = NAN;
    Device device;
    const ChunkResult result = forwardInChunks(device, p);
    check(std::isnan(result.o.at(5)), "the NaN is not seen");
    for (int64_t i = 272 * p.V; i < result.o.size(); ++i)
      check(std::fabs(result.o.at(i) - expected.o[i]) <= 0.1 * std::fabs(expected.o[i]) + 0.1,
            "o: element %d is %g, not %g", static_cast<int>(i), result.o.at(i), expected.o[i]);
  }
}

// Not a number in one sequence's chunk: that sequence and head group, from that chunk on.
TEST("chunk form: NaN stays in its sequence, its heads and behind its chunk") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    Problem clear = cell(RANKONE_DELTA, gate);
    clear.B = clear.H = 2;
    clear.HV = 4;
    clear.T = 100;
    drawArguments(clear, 240, DType::BF16, DType::F32);
    Device device;
    const ChunkResult clean = forwardInChunks(device, clear);
    for (int which = gate == RANKONE_GATE_TOKEN ? 0 : 4; which < 5; ++which) {
      Problem p = clear;
      // In sequence 1, token 70, key head 1: value heads 2 and 3, or value head 3 alone.
      const int64_t token = p.T + 70;
      if (which == 0) p.q[(token * p.H + 1) * p.K + 2] = NAN;
      if (which == 1) p.k[(token * p.H + 1) * p.K + 2] = INFINITY;
      if (which == 2) p.v[(token * p.HV + 3) * p.V + 2] = NAN;
      if (which == 3) p.beta[token * p.HV + 3] = NAN;
      if (which == 4) p.g[(token * p.HV + 3) * static_cast<int64_t>(p.g.size()) / (p.B * p.T * p.HV)] = NAN;
      const ChunkResult dirty = forwardInChunks(device, p);
      bool seen = false;
      for (int64_t i = 0; i < clean.o.size(); ++i) {
        const int64_t row = i / p.V, head = row % p.HV, t = row / p.HV % p.T, b = row / p.HV / p.T;
        const bool touched = b == 1 && head >= (which < 2 ? 2 : 3) && t >= 64;
        if (!touched)
          check(clean.o.at(i) == dirty.o.at(i), "case %d: o at sequence %d token %d head %d", which,
                static_cast<int>(b), static_cast<int>(t), static_cast<int>(head));
        seen |= touched && b == 1 && t == 70 && std::isnan(dirty.o.at(i));
      }
      check(seen, "case %d: no NaN where it belongs", which);
      const int64_t size = p.K * p.V;
      for (int64_t i = 0; i < clean.finalState.size(); ++i)
        if (i / size < p.HV + (which < 2 ? 2 : 3))
          check(clean.finalState.at(i) == dirty.finalState.at(i), "case %d: finalState", which);
    }
  }
}

}  // namespace
}  // namespace rankone::test
