// compute: 'bf16', where the instruction set has its dot product; elsewhere it is refused.
#include <cstring>

#include "check.h"
#include "compare.h"
#include "core/cpu.h"
#include "grid.h"

namespace rankone::test {
namespace {

bool refused(const Invocation& call) {
  try {
    call.run();
  } catch (const Error& e) {
    return std::strstr(e.what(), "compute") != nullptr;
  }
  return false;
}

TEST("compute bf16: the grid") {
  constexpr int64_t kSizes[][4] = {{1, 2, 64, 64}, {2, 2, 33, 65}, {1, 1, 128, 40}, {1, 2, 9, 5}};
  constexpr DType kDTypes[] = {DType::F32, DType::BF16, DType::F16};
  uint64_t seed = 500;
  for (int gate = 0; gate < 4; ++gate)
    for (int n = 0; n <= 2; ++n) {
      const auto& [H, HV, K, V] = kSizes[seed % 4];
      seed += 2;
      const Sizes s{1 + gate % 2, n == 1 ? 70 : 33, H, HV, K, V, n > 1 ? n : 1, static_cast<Gate>(gate), n > 0};
      const GridProblem p = drawProblem(s, Numbers::Mild, true, seed, kDTypes[seed / 2 % 3]);
      for (const char* mode : {"auto", "chunk"}) {
        Invocation call = forwardCall(p).choose("compute", "bf16").choose("mode", mode).set("outputFinalState", 1);
        if (!hasBf16Dot()) {
          check(refused(call), "%s: expected an error that names compute", p.label.c_str());
          continue;
        }
        const GridForward f = referenceForward(s, p.values());
        const Results results = call.run();
        expectNear(p.label + " o", results["o"], {f.o, {}}, Rows::Tokens, 6e-3);
        expectNear(p.label + " finalState", results["finalState"], {f.finalState, {}}, Rows::States, 1e-2);
      }
    }
}

// Factors are rounded, their products added in float32.
TEST("compute bf16: matmul") {
  constexpr int64_t kSizes[][3] = {{1, 1, 1},   {3, 5, 7},     {17, 33, 16}, {1, 70, 65},
                                   {64, 1, 33}, {40, 50, 131}, {5, 0, 3}};
  for (const DType dtype : {DType::F32, DType::BF16, DType::F16})
    for (const auto& [M, N, K] : kSizes)
      for (const int form : {0, 1, 2, 3}) {
        const bool tA = form & 1, tB = form & 2;
        Random random(static_cast<uint64_t>(M + N + K), dtype);
        const Array a = random.normals(tA ? Shape{K, M} : Shape{M, K}),
                    b = random.normals(tB ? Shape{N, K} : Shape{K, N});
        Invocation call = Invocation("matmul").in("a", a).in("b", b).set("transposeA", tA).set("transposeB", tB);
        call.choose("compute", "bf16");
        if (!hasBf16Dot()) {
          check(refused(call), "expected an error that names compute");
          continue;
        }
        const Values left = a.to(DType::BF16).values(), right = b.to(DType::BF16).values();
        Reference y{Values(M * N), Values(M * N)};
        for (int64_t m = 0; m < M; ++m)
          for (int64_t n = 0; n < N; ++n)
            for (int64_t k = 0; k < K; ++k) {
              const double term = left[tA ? k * M + m : m * K + k] * right[tB ? n * K + k : k * N + n];
              y.values[m * N + n] += term;
              y.noise[m * N + n] += std::fabs(term) * 0x1p-25;
            }
        char label[80];
        std::snprintf(label, sizeof label, "%s M %d N %d K %d form %d", dtypeName(dtype), int(M), int(N), int(K), form);
        expectNear(label, call.run()["y"], y, Rows::Whole, 2e-6);
      }
}

}  // namespace
}  // namespace rankone::test
