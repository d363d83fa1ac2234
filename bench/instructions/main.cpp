// rankone_instructions CASE       makes the calls of one case: check.cjs counts the instructions of runPlanned in them
// rankone_instructions --list     the cases, each with the number of its calls
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "grid.h"

namespace rankone::test {
namespace {

struct Case {
  std::string name;
  int calls;  // in which what happens only once, such as the first allocation of scratch memory, is spread
  void (*run)(const Case&);
  Sizes sizes = {};
  DType dtype = DType::F32;
};

Sizes grid(Gate gate, bool delta, int64_t n = 1, int64_t T = 64, int64_t K = 64) {
  return {1, T, 2, 2, K, K, n, gate, delta};
}

GridProblem problemOf(const Case& one) { return drawProblem(one.sizes, Numbers::Mild, true, 42, one.dtype); }

void forward(const Case& one) {
  const Invocation call = forwardCall(problemOf(one));
  for (int i = 0; i < one.calls; ++i) call.run();
}

// Alone: it computes again what a forward may save.
void backward(const Case& one) {
  const Invocation call = backwardCall(problemOf(one));
  for (int i = 0; i < one.calls; ++i) call.run();
}

void decode(const Case& one) {
  const Sizes& s = one.sizes;
  StateBuffer state(s.B, s.HV, s.K, s.V, 0);
  Invocation call = forwardCall(problemOf(one)).in("initialState", Array()).state(state);
  for (int i = 0; i < one.calls; ++i) call.run();
}

// One token through the parts of a layer as wide as a small language model's.
template <int kRows>
void matmul(const Case& one) {
  Random random(42, one.dtype);
  Invocation call("matmul");
  call.in("a", random.normals({kRows, 128})).in("b", random.normals({256, 128})).set("transposeB", 1);
  for (int i = 0; i < one.calls; ++i) call.run();
}

void rmsNorm(const Case& one) {
  Random random(42, one.dtype);
  Invocation call("rmsNorm");
  call.in("x", random.normals({32, 256})).in("weight", random.normals({256}));
  for (int i = 0; i < one.calls; ++i) call.run();
}

const std::vector<Case>& cases() {
  static const std::vector<Case> list = {
      {"forward none/additive", 4, forward, grid(Gate::None, false)},
      {"forward channel/additive", 4, forward, grid(Gate::Channel, false)},
      {"forward token/delta", 4, forward, grid(Gate::Token, true)},
      {"forward token/delta K=96", 4, forward, grid(Gate::Token, true, 1, 64, 96)},
      {"forward token/delta bf16", 4, forward, grid(Gate::Token, true), DType::BF16},
      {"forward channel/delta", 4, forward, grid(Gate::Channel, true)},
      {"forward token/delta/2", 4, forward, grid(Gate::Token, true, 2)},
      {"backward none/additive", 2, backward, grid(Gate::None, false)},
      {"backward channel/additive", 2, backward, grid(Gate::Channel, false)},
      {"backward token/delta", 2, backward, grid(Gate::Token, true)},
      {"backward channel/delta", 2, backward, grid(Gate::Channel, true)},
      {"backward token/delta/2", 2, backward, grid(Gate::Token, true, 2)},
      {"decode channel/additive", 32, decode, grid(Gate::Channel, false, 1, 1)},
      {"decode token/delta", 32, decode, grid(Gate::Token, true, 1, 1)},
      {"decode token/delta/2", 32, decode, grid(Gate::Token, true, 2, 1)},
      {"matmul 1 row", 16, matmul<1>},
      {"matmul 48 rows", 4, matmul<48>},
      {"matmul 48 rows bf16", 4, matmul<48>, {}, DType::BF16},
      {"rmsNorm 32 rows", 16, rmsNorm},
  };
  return list;
}

}  // namespace
}  // namespace rankone::test

int main(int argc, char** argv) {
  using namespace rankone;
  setNumThreads(1);
  for (const test::Case& one : test::cases()) {
    if (argc == 2 && !std::strcmp(argv[1], "--list")) std::printf("%d %s\n", one.calls, one.name.c_str());
    if (argc == 2 && one.name == argv[1]) {
      one.run(one);
      return 0;
    }
  }
  return argc == 2 && !std::strcmp(argv[1], "--list") ? 0 : 2;
}
