// The scan with wgmma and TMA, which devices of compute capability 9.0 take where V is more than 32: against float64,
// and in the emulator, whose tensor cores add up in one way, against the bits of mma.sync. On a GPU of another
// capability these are tests of mma.sync once more.
#include <cmath>
#include <cstring>
#include <functional>

#include "recurrence_case.h"

namespace rankone::test {
namespace {

using reference::Problem;

constexpr int32_t kGates[] = {RANKONE_GATE_NONE, RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL};

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
  return p;
}

ChunkResult onHopper(const Problem& p, DType dtype = DType::BF16) {
  const Setting capability("RANKONE_EMULATED_CAPABILITY", "90");
  Device device;
  wgmmaProducts();
  ChunkResult result = forwardInChunks(device, p, dtype);
  check(wgmmaProducts() != 0, "%s: no wgmma", describe(p, dtype).c_str());
  return result;
}

ChunkResult onAmpere(const Problem& p, DType dtype = DType::BF16) {
  const Setting capability("RANKONE_EMULATED_CAPABILITY", "80");
  Device device;
  return forwardInChunks(device, p, dtype);
}

void expectSame(const Problem& p, const ChunkResult& a, const ChunkResult& b) {
  check(a.o.sameBits(b.o) && a.finalState.sameBits(b.finalState), "%s: other bits", describe(p, DType::BF16).c_str());
}

void expectForward(Problem p, uint64_t seed, DType dtype = DType::BF16) {
  drawArguments(p, seed, DType::BF16, DType::F32);
  const ChunkResult result = onHopper(p, dtype);
  expectChunks(p, result, false, dtype);
  expectSame(p, result, onAmpere(p, dtype));
}

TEST("hopper scan: every cell, n updates a token") {
  uint64_t seed = 1;
  for (int32_t gate : kGates) {
    expectForward(cell(RANKONE_ADDITIVE, gate, 1, 80, 64, 64), seed++);
    for (int64_t n : {1, 2, 3}) expectForward(cell(RANKONE_DELTA, gate, n, 150 / n, 64, 64), seed++);
  }
  for (int64_t n : {4, 8}) expectForward(cell(RANKONE_DELTA, RANKONE_GATE_TOKEN, n, 20, 64, 64), seed++);
}

TEST("hopper scan: lengths") {
  uint64_t seed = 30;
  for (int64_t T : {1, 63, 64, 65, 320}) expectForward(cell(RANKONE_DELTA, RANKONE_GATE_TOKEN, 1, T, 64, 40), seed++);
}

TEST("hopper scan: sizes of K and V") {
  uint64_t seed = 50;
  const int64_t sizes[][2] = {{40, 33}, {96, 100}, {128, 64}, {192, 70}, {256, 64}};
  for (const auto& size : sizes)
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      // Delta with gates per channel and K above 128 does not fit.
      if (gate == RANKONE_GATE_TOKEN || size[0] <= 128)
        expectForward(cell(RANKONE_DELTA, gate, 1, 140, size[0], size[1]), seed++);
      if (size[0] >= 128) expectForward(cell(RANKONE_ADDITIVE, gate, 1, 70, size[0], size[1]), seed++);
    }
}

TEST("hopper scan: grouped heads, packed sequences with empty ones, norms") {
  uint64_t seed = 80;
  for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
    for (int32_t gate : {RANKONE_GATE_HEAD, RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(update, gate, 1, 215, 64, 48);
      p.H = 2;
      p.HV = 4;
      p.cuSeqlens = {0, 0, 70, 70, 210, 215, 215};
      p.qkL2norm = true;
      expectForward(p, seed++);
    }
}

TEST("hopper scan: dtypes") {
  for (DType dtype : {DType::F16, DType::F32})
    for (int64_t V : {64, 37}) {
      Problem p = cell(RANKONE_DELTA, RANKONE_GATE_TOKEN, 1, 70, 64, V);
      drawArguments(p, 110, DType::BF16, DType::F32);
      for (Values* values : {&p.q, &p.k, &p.v})
        *values = Array({static_cast<int64_t>(values->size())}, *values, dtype).values();
      const ChunkResult result = onHopper(p, dtype);
      expectChunks(p, result, false, dtype);
      expectSame(p, result, onAmpere(p, dtype));
    }
}

TEST("hopper scan: resets, and the NaN that they clear") {
  for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
    for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
      Problem p = cell(update, gate, 1, 200, 64, 40);
      drawArguments(p, 120, DType::BF16, DType::F32);
      p.initialState[3] = NAN;
      p.initialState[40] = INFINITY;
      const int64_t width = static_cast<int64_t>(p.g.size()) / p.T;
      for (int64_t t : {0, 64, 100, 127})
        for (int64_t i = 0; i < width; ++i) p.g[t * width + i] = -INFINITY;
      const ChunkResult result = onHopper(p);
      expectChunks(p, result);
      expectSame(p, result, onAmpere(p));
    }
}

// A sequence ends in the middle of a box, and what follows is not a number.
TEST("hopper scan: NaN stays in its sequence, whose bits do not depend on the others") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    Problem p = cell(RANKONE_DELTA, gate, 1, 200, 64, 64);
    p.cuSeqlens = {0, 100, 200};
    drawArguments(p, 130, DType::BF16, DType::F32);
    const ChunkResult clean = onHopper(p);
    for (int64_t i = 100 * p.K; i < 200 * p.K; ++i) p.q[i] = p.k[i] = NAN;
    for (int64_t i = 100 * p.V; i < 200 * p.V; ++i) p.v[i] = NAN;
    const ChunkResult dirty = onHopper(p);
    check(std::isnan(dirty.o.at(150 * p.V)), "no NaN where it belongs");
    for (int64_t i = 0; i < 100 * p.V; ++i) check(clean.o.at(i) == dirty.o.at(i), "o, element %d", static_cast<int>(i));
    for (int64_t i = 0; i < p.K * p.V; ++i)
      check(clean.finalState.at(i) == dirty.finalState.at(i), "finalState, element %d", static_cast<int>(i));
  }
}

// Few blocks have more stages than many; a turn of one chunk makes of every chunk a launch.
TEST("hopper scan: the same bits with any workspace and depth") {
  for (int64_t K : {64, 128, 256}) {
    Problem p = cell(RANKONE_DELTA, RANKONE_GATE_TOKEN, 1, 260, K, 64);
    drawArguments(p, 140, DType::BF16, DType::F32);
    const ChunkResult deep = onHopper(p);
    {
      const Setting turns("RANKONE_CUDA_WORKSPACE", "1");
      expectSame(p, deep, onHopper(p));
    }
    Problem many = p;
    many.B = 6;
    const auto repeat = [&](Values& x) {
      const Values one = x;
      for (int64_t b = 1; b < many.B; ++b) x.insert(x.end(), one.begin(), one.end());
    };
    for (Values* x : {&many.q, &many.k, &many.v, &many.g, &many.beta, &many.initialState}) repeat(*x);
    const ChunkResult shallow = onHopper(many);
    for (int64_t i = 0; i < shallow.o.size(); ++i)
      check(shallow.o.at(i) == deep.o.at(i % deep.o.size()), "K %d: o, element %d", static_cast<int>(K),
            static_cast<int>(i));
    for (int64_t i = 0; i < shallow.finalState.size(); ++i)
      check(shallow.finalState.at(i) == deep.finalState.at(i % deep.finalState.size()), "K %d: finalState, element %d",
            static_cast<int>(K), static_cast<int>(i));
  }
}

// Few heads and 64 chunks: pieces, whose scans have the identity for states and no values.
TEST("hopper scan: pieces of a long sequence") {
  for (int32_t gate : {RANKONE_GATE_TOKEN, RANKONE_GATE_CHANNEL}) {
    Problem p = cell(RANKONE_DELTA, gate, 8, 530, 40, 36);
    p.scale = 1;
    drawArguments(p, 150, DType::BF16, DType::F32);
    for (double& g : p.g) g *= 0.1;  // so that a piece hears of those before
    const ChunkResult result = onHopper(p);
    expectChunks(p, result);
    expectSame(p, result, onAmpere(p));
  }
}

// What the backward reads, with an output and, where it is computed again for the backward, without.
TEST("hopper scan: what is saved for the backward") {
  for (int32_t update : {RANKONE_ADDITIVE, RANKONE_DELTA})
    for (int64_t K : {64, 200})
      for (bool output : {true, false}) {
        // With more chunks than stages, so that the last one, which is not whole, takes the place of another.
        Problem p = cell(update, RANKONE_GATE_TOKEN, 1, 280, K, 36);
        drawArguments(p, 160, DType::BF16, DType::F32);
        const auto saved = [&](const char* emulated) {
          const Setting capability("RANKONE_EMULATED_CAPABILITY", emulated);
          Device device;
          const DeviceProblem on(device, p, DType::BF16, DType::F32);
          const DeviceArray o(device, {p.B, p.T, p.HV, p.V}, DType::BF16);
          RankoneRecurrenceForward args = {};
          args.problem = on.problem;
          args.problem.mode = RANKONE_MODE_CHUNK;
          const DeviceArray trace(device, {static_cast<int64_t>(backend().savedBytes(&args.problem) / 2)}, DType::BF16);
          args.o = output ? o.data() : nullptr;
          args.saved = trace.data();
          device.recurrenceForward(args);
          return trace.host();
        };
        check(saved("90").sameBits(saved("80")), "%s: other bits saved", describe(p, DType::BF16).c_str());
      }
}

}  // namespace
}  // namespace rankone::test
