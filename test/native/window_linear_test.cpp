// windowLinearAttention over many chunks and segments, and its decode: a sequence split anywhere is the whole. Values
// are held against float64 in test/ops; here it is the memory that is looked at.
#include <algorithm>

#include "check.h"
#include "compare.h"
#include "grid.h"
#include "invocation.h"
#include "random.h"

namespace rankone::test {
namespace {

struct Problem {
  int64_t T, window;
  bool terraced;
  Array q, k, v, phiQ, phiK, factors;
};

constexpr int64_t kH = 4, kHKV = 2, kHF = 4, kK = 9, kV = 17, kF = 7;

Problem drawProblem(Random& r, int64_t T, int64_t window, bool terraced) {
  const auto positive = [&](const Shape& shape) { return r.fill(shape, [&] { return r.uniform(); }); };
  return {T,
          window,
          terraced,
          r.normals({1, T, kH, kK}),
          r.normals({1, T, kHKV, kK}),
          r.normals({1, T, kHKV, kV}),
          positive({1, T, kH, kF}),
          positive({1, T, kHF, kF}),
          r.normals({kH})};
}

Invocation callOf(const char* function, const Problem& p, int64_t first, int64_t count) {
  Invocation call(function);
  const auto part = [&](const Array& a) { return tokensOf(a, first, count); };
  call.in("q", part(p.q)).in("k", part(p.k)).in("v", part(p.v)).in("phiQ", part(p.phiQ)).in("phiK", part(p.phiK));
  call.in("windowFactors", p.factors).set("window", static_cast<double>(p.window));
  if (p.terraced) call.set("terraced", 1);
  return call;
}

TEST("windowLinearAttention: many chunks and segments, and any steps of a decode") {
  Random r(47);
  for (const int64_t T : {33, 64, 130, 1100})
    for (const int64_t window : {1, 31, 70})
      for (const bool terraced : {false, true}) {
        if (quick() && T == 1100 && window != 70) continue;
        const Problem p = drawProblem(r, T, window, terraced);
        const Array o = callOf("windowLinearAttention", p, 0, T).run()["o"];
        callOf("windowLinearAttentionBackward", p, 0, T).in("dO", r.normals({1, T, kH, kV})).run();
        StateBuffer state(1, kHF, kF, kV, kHF);
        const int64_t reach = terraced ? 2 * window - 1 : std::max<int64_t>(1, window - 1);
        KvCache cache(1, kHKV, kK + kHF / kHKV * kF, kV, reach, reach, DType::F32);
        Values expected(static_cast<size_t>(T * kH * kV));
        for (size_t i = 0; i < expected.size(); ++i) expected[i] = o.at(static_cast<int64_t>(i));
        Array all({1, T, kH, kV});
        for (int64_t at = 0; at < T;) {
          const int64_t count = std::min(T - at, r.below(2) ? 1 : 1 + r.below(300));
          const Array part = callOf("windowLinearAttention", p, at, count).state(state).cache(cache).run()["o"];
          for (int64_t i = 0; i < count * kH * kV; ++i) all.set(at * kH * kV + i, part.at(i));
          at += count;
        }
        check(cache.length(0) == T, "length");
        expectNear("o", all, expected, 4e-6);
      }
}

}  // namespace
}  // namespace rankone::test
