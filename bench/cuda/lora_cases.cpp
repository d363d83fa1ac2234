// Shapes of the fused LoRA product, each held against the base product alone in the same run.
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <memory>

#include "bench.h"

namespace rankone::bench {
namespace {

struct Case {
  std::string name;
  int64_t rows, d, rank;  // W [d, d]
  int64_t adapters;       // 0: the base product alone
  int64_t perRow = 1;
  int32_t format = RANKONE_WEIGHT_BF16;
};

double bytesOfWeight(int32_t format, int64_t d) {
  const double elements = static_cast<double>(d) * static_cast<double>(d);
  switch (format) {
    case RANKONE_WEIGHT_NF4: return elements / 2 + elements / 64 * 4;
    case RANKONE_WEIGHT_INT8: return elements + static_cast<double>(d) * 4;
    default: return elements * 2;
  }
}

// x read and y written, the weight and every adapter read once; 2 d^2 operations a row, 4 d r for each of its adapters.
Work workOf(const Case& c) {
  const double rows = static_cast<double>(c.rows), d = static_cast<double>(c.d), r = static_cast<double>(c.rank);
  const double uses = c.adapters ? static_cast<double>(c.perRow) : 0;
  return {bytesOfWeight(c.format, c.d) + 4 * rows * d + static_cast<double>(c.adapters) * 4 * d * r,
          rows * (2 * d * d + uses * 4 * d * r)};
}

// Arguments on the device, and the host arrays that they point to.
struct Problem {
  RankoneLora lora = {};
  RankoneWeight weight = {};
  std::vector<RankoneAdapter> adapters;
  std::vector<int32_t> slots;
};

// Rows go to adapters in order: equal shares, neighbours together. Rows with two take two of them.
std::unique_ptr<Problem> problemOf(Bench& bench, const Case& c) {
  auto p = std::make_unique<Problem>();
  const int64_t d = c.d;
  const double unit = std::sqrt(3 / static_cast<double>(d));
  RankoneWeight& w = p->weight;
  w.format = c.format, w.out = d, w.in = d;
  if (c.format == RANKONE_WEIGHT_NF4) {
    w.rowBytes = d / 2, w.block = 64;
    w.scales = static_cast<const float*>(bench.random(d * (d / 64), 0.01, 0.02, RANKONE_F32).data);
  } else if (c.format == RANKONE_WEIGHT_INT8) {
    w.rowBytes = d;
    w.scales = static_cast<const float*>(bench.random(d, 1e-4, 2e-4, RANKONE_F32).data);
  } else {
    w.rowBytes = d * 2;
  }
  w.codes = c.format == RANKONE_WEIGHT_BF16 ? bench.random(d * d, -unit, unit).data
                                            : bench.bytes(static_cast<size_t>(w.rowBytes * d), true);
  for (int64_t e = 0; e < c.adapters; ++e) {
    RankoneAdapter a = {};
    a.rank = a.midRank = c.rank, a.scale = 2;
    a.aStride = d, a.bStride = c.rank;
    a.a = bench.random(c.rank * d, -unit, unit);
    a.b = bench.random(d * c.rank, -0.1, 0.1);
    p->adapters.push_back(a);
  }
  for (int64_t i = 0; c.adapters && i < c.rows * c.perRow; ++i) {
    const int64_t row = i / c.perRow;
    p->slots.push_back(static_cast<int32_t>(c.perRow == 1 ? row * c.adapters / c.rows
                                                          : (row * 7 + i % c.perRow * 3 + row / 5) % c.adapters));
  }
  RankoneLora& l = p->lora;
  l.rows = c.rows, l.in = d, l.out = d, l.perRow = c.perRow;
  l.x = bench.random(c.rows * d, -1, 1);
  l.base = &w;
  l.adapters = p->adapters.data();
  l.adapterCount = c.adapters;
  l.slots = p->slots.empty() ? nullptr : p->slots.data();
  return p;
}

Case tinyOf(Case c) {
  c.d = 128;
  c.rows = c.rows > 40 ? 40 : c.rows;
  c.rank = c.rank > 16 ? 16 : c.rank;
  c.adapters = c.adapters > 3 ? 3 : c.adapters;
  return c;
}

// Milliseconds; 0 where it was not asked for.
double forward(Bench& bench, const Case& shape, double base, const std::string& baseName) {
  const std::string name = "lora forward " + shape.name;
  if (!bench.wanted(name)) return 0;
  const Case c = bench.tiny() ? tinyOf(shape) : shape;
  const Work work = workOf(c);
  const int sets = bench.sets(work.bytes);
  std::vector<std::unique_ptr<Problem>> problems;
  std::vector<RankoneLoraForward> args(sets);
  for (RankoneLoraForward& a : args) {
    problems.push_back(problemOf(bench, c));
    a.problem = problems.back()->lora;
    a.y = bench.bytes(static_cast<size_t>(c.rows * c.d) * 2, false);
  }
  Result result = {name, baseName, 0, 0, 0, work, base};
  const double milliseconds = bench.time(result, sets, c.rows <= 64, [&](int i) {
    RankoneError error;
    expectDone(backend().loraForward(bench.stream(), &args[i], &error), error, "loraForward");
  });
  bench.expectFinite("y", args[0].y, c.rows * c.d, RANKONE_BF16);
  bench.releaseAll();
  return milliseconds;
}

// Forward and backward together: with dx, and with gradients of every adapter where there are any.
double training(Bench& bench, const Case& shape, double base, const std::string& baseName) {
  const std::string name = "lora forward + backward " + shape.name;
  if (!bench.wanted(name)) return 0;
  const Case c = bench.tiny() ? tinyOf(shape) : shape;
  Work work = workOf(c);
  work.bytes *= 2;
  work.operations = 2 * work.operations + static_cast<double>(c.rows * (c.adapters ? c.perRow * 4 * c.d * c.rank : 0));
  const int sets = bench.sets(work.bytes);
  std::vector<std::unique_ptr<Problem>> problems;
  std::vector<std::vector<RankoneAdapterGradient>> gradients(sets);
  std::vector<RankoneLoraForward> forwards(sets);
  std::vector<RankoneLoraBackward> backwards(sets);
  for (int i = 0; i < sets; ++i) {
    problems.push_back(problemOf(bench, c));
    RankoneLora& lora = problems.back()->lora;
    if (c.adapters) {
      lora.t = bench.f32(c.rows * c.perRow * c.rank);
      lora.tRanks = c.rank;
    }
    for (int64_t e = 0; e < c.adapters; ++e) {
      RankoneAdapterGradient g = {};
      g.a = bench.f32(c.rank * c.d), g.b = bench.f32(c.d * c.rank), g.bRanks = c.rank;
      gradients[i].push_back(g);
    }
    forwards[i] = {lora, bench.bytes(static_cast<size_t>(c.rows * c.d) * 2, false)};
    RankoneLoraBackward& b = backwards[i];
    b.problem = lora;
    b.dY = bench.random(c.rows * c.d, -1, 1);
    b.dx = bench.bytes(static_cast<size_t>(c.rows * c.d) * 2, false);
    b.dxDType = RANKONE_BF16;
    b.adapters = c.adapters ? gradients[i].data() : nullptr;
  }
  const double milliseconds = bench.time({name, baseName, 0, 0, 0, work, base}, sets, false, [&](int i) {
    RankoneError error;
    expectDone(backend().loraForward(bench.stream(), &forwards[i], &error), error, "loraForward");
    expectDone(backend().loraBackward(bench.stream(), &backwards[i], &error), error, "loraBackward");
  });
  bench.expectFinite("dx", backwards[0].dx, c.rows * c.d, RANKONE_BF16);
  bench.releaseAll();
  return milliseconds;
}

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char* format, ...) {
  char buffer[128];
  va_list args;
  va_start(args, format);
  std::vsnprintf(buffer, sizeof buffer, format, args);
  va_end(args);
  return buffer;
}

}  // namespace

void loraCases(Bench& bench) {
  const int64_t d = 4096;
  struct Weights {
    int32_t format;
    const char* name;
  };
  for (const Weights& w :
       {Weights{RANKONE_WEIGHT_BF16, "bf16"}, {RANKONE_WEIGHT_NF4, "nf4"}, {RANKONE_WEIGHT_INT8, "int8"}}) {
    for (const int64_t rows : {1, 8, 64, 512, 2048, 8192}) {
      if (w.format != RANKONE_WEIGHT_BF16 && rows != 1 && rows != 2048) continue;
      const std::string label = text("%s %lld rows", w.name, static_cast<long long>(rows));
      const Case alone = {label, rows, d, 0, 0, 1, w.format};
      const double base = forward(bench, alone, 0, "");
      for (const int64_t rank : {16, 64})
        forward(bench, {label + text(" r=%lld", static_cast<long long>(rank)), rows, d, rank, 1, 1, w.format}, base,
                "base");
    }
  }
  const double one = forward(bench, {"bf16 512 rows r=16, one adapter again", 512, d, 16, 1}, 0, "");
  forward(bench, {"bf16 512 rows r=16, 64 adapters of 8 rows", 512, d, 16, 64}, one, "one adapter");
  forward(bench, {"bf16 512 rows r=16, 8 adapters of 64 rows", 512, d, 16, 8}, one, "one adapter");
  const double bare = forward(bench, {"bf16 2048 rows, base again", 2048, d, 0, 0}, 0, "");
  forward(bench, {"bf16 2048 rows r=16, top 2 of 8", 2048, d, 16, 8, 2}, bare, "base");
  const double decode = forward(bench, {"bf16 32 rows, base", 32, d, 0, 0}, 0, "");
  forward(bench, {"bf16 32 rows r=16, 32 adapters", 32, d, 16, 32}, decode, "base");

  const double plain = training(bench, {"bf16 2048 rows, base", 2048, d, 0, 0}, 0, "");
  for (const int64_t rank : {16, 64})
    training(bench, {text("bf16 2048 rows r=%lld", static_cast<long long>(rank)), 2048, d, rank, 1}, plain, "base");
}

}  // namespace rankone::bench
