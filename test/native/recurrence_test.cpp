// Every cell of the grid in every form, against the float64 reference: odd sizes, grouped heads, resets, states.
#include <algorithm>
#include <cstring>

#include "check.h"
#include "compare.h"
#include "grid.h"

namespace rankone::test {
namespace {

constexpr int64_t kDims[] = {1, 3, 16, 17, 33, 64, 65};
constexpr int64_t kTokens[] = {0, 1, 2, 15, 33, 70};
constexpr int64_t kHeads[][2] = {{1, 1}, {1, 2}, {2, 2}, {2, 4}, {1, 3}};
constexpr Numbers kNumbers[] = {Numbers::Mild, Numbers::Strong, Numbers::Resets, Numbers::Growing};

struct References {
  Reference o, finalState, dq, dk, dv, dg, dbeta, dInitialState;
};

References referencesOf(const GridProblem& p) {
  Random random(1);
  const GridValues values = p.values(), moved = shaken(values, random);
  const GridForward f = referenceForward(p.sizes, values), f2 = referenceForward(p.sizes, moved);
  const GridGradients b = referenceBackward(p.sizes, values), b2 = referenceBackward(p.sizes, moved);
  return {withNoise(f.o, f2.o),         withNoise(f.finalState, f2.finalState),
          withNoise(b.dq, b2.dq),       withNoise(b.dk, b2.dk),
          withNoise(b.dv, b2.dv),       withNoise(b.dg, b2.dg),
          withNoise(b.dbeta, b2.dbeta), withNoise(b.dInitialState, b2.dInitialState)};
}

void expectForward(const std::string& label, const Results& results, const References& ref) {
  expectNear(label + " o", results["o"], ref.o, Rows::Tokens, kOutputLimit);
  if (results.has("finalState"))
    expectNear(label + " finalState", results["finalState"], ref.finalState, Rows::States, kStateLimit);
}

void expectGradients(const std::string& label, const Results& results, const References& ref, const GridProblem& p) {
  expectNear(label + " dq", results["dq"], ref.dq, Rows::Tokens, kStateLimit);
  expectNear(label + " dk", results["dk"], ref.dk, Rows::Tokens, kStateLimit);
  expectNear(label + " dv", results["dv"], ref.dv, Rows::Tokens, kStateLimit);
  check(results.has("dg") == p.g.present(), "%s: dg", label.c_str());
  check(results.has("dbeta") == p.beta.present(), "%s: dbeta", label.c_str());
  check(results.has("dInitialState") == p.initialState.present(), "%s: dInitialState", label.c_str());
  if (p.g.present()) expectNear(label + " dg", results["dg"], ref.dg, Rows::Tokens, kGateLimit);
  if (p.beta.present()) expectNear(label + " dbeta", results["dbeta"], ref.dbeta, Rows::Tokens, kGateLimit);
  if (p.initialState.present())
    expectNear(label + " dInitialState", results["dInitialState"], ref.dInitialState, Rows::States, kStateLimit);
}

// The T tokens from `first` of [B, T, ...], with `perToken` rows a token.
Array tokensOf(const Array& a, int64_t first, int64_t count, int64_t perToken = 1) {
  if (!a.present() || a.shape().size() < 3) return a;
  Shape shape = a.shape();
  const int64_t rows = shape[1], inner = sizeOf({shape.begin() + 2, shape.end()});
  shape[1] = count * perToken;
  Array part(shape, a.tensor().dtype);
  for (int64_t i = 0; i < part.size(); ++i) {
    const int64_t b = i / (shape[1] * inner), rest = i % (shape[1] * inner);
    part.set(i, a.at((b * rows + first * perToken) * inner + rest));
  }
  return part;
}

GridProblem part(const GridProblem& whole, int64_t first, int64_t count) {
  GridProblem p = whole;
  p.sizes.T = count;
  p.q = tokensOf(whole.q, first, count);
  p.k = tokensOf(whole.k, first, count, whole.sizes.n);
  p.v = tokensOf(whole.v, first, count, whole.sizes.n);
  p.g = tokensOf(whole.g, first, count);
  p.beta = tokensOf(whole.beta, first, count, whole.sizes.n);
  p.initialState = Array();
  return p;
}

// The sequence in two calls that advance one state in place.
void expectDecode(const GridProblem& p, const References& ref, int64_t first) {
  const Sizes& s = p.sizes;
  StateBuffer state(s.B, s.HV, s.K, s.V);
  for (int64_t i = 0; i < p.initialState.size(); ++i) state.data()[i] = static_cast<float>(p.initialState.at(i));
  for (const auto& [from, count] : {std::pair{int64_t{0}, first}, {first, s.T - first}}) {
    const Results results = forwardCall(part(p, from, count)).state(state).run();
    Array expected(p.dO.shape(), ref.o.values), noise(p.dO.shape(), ref.o.noise);
    const Reference partRef{tokensOf(expected, from, count).values(), tokensOf(noise, from, count).values()};
    expectNear(p.label + " decoded o", results["o"], partRef, Rows::Tokens, 2 * kOutputLimit);
  }
  Array final({s.B, s.HV, s.K, s.V});
  for (int64_t i = 0; i < final.size(); ++i) final.set(i, state.data()[i]);
  expectNear(p.label + " decoded state", final, ref.finalState, Rows::States, kStateLimit);
}

void expectSameBits(const std::string& label, const Results& a, const Results& b) {
  for (const auto& [name, array] : a.outputs)
    check(array.sameBits(b[name]), "%s: other bits of %s with other threads", label.c_str(), name.c_str());
}

Results onOneThread(const Invocation& call) {
  const int before = numThreads();
  setNumThreads(1);
  Results results = call.run();
  setNumThreads(before);
  return results;
}

void expectProblem(const GridProblem& p, int64_t index) {
  const References ref = referencesOf(p);
  for (const char* mode : {"auto", "recurrent", "chunk"}) {
    Invocation call = forwardCall(p);
    call.choose("mode", mode).set("outputFinalState", 1);
    if (index % 2) call.set("chunkSize", static_cast<double>(16 << index / 2 % 4));
    const Results results = call.run();
    expectForward(p.label + ' ' + mode, results, ref);
    if (index % 5 == 0) expectSameBits(p.label, results, onOneThread(call));
  }
  expectDecode(p, ref, p.sizes.T / 2);

  const Results kept = forwardCall(p).set("saveForBackward", 1).run();
  expectForward(p.label + " saved", kept, ref);
  check(kept.saved != nullptr, "%s: saved", p.label.c_str());
  const Results withSaved = backwardCall(p).saved(kept.saved).run(), without = backwardCall(p).run();
  expectGradients(p.label + " with saved", withSaved, ref, p);
  expectGradients(p.label + " without saved", without, ref, p);
  if (index % 5 == 0) expectSameBits(p.label, without, onOneThread(backwardCall(p)));
}

// NaN and infinities in every argument: no bound to hold the results to, but none may be left unwritten or crash.
void runHostile(const GridProblem& p) {
  for (const char* mode : {"recurrent", "chunk"}) {
    const Invocation call = forwardCall(p).choose("mode", mode).set("outputFinalState", 1);
    const Results results = call.run(), again = onOneThread(call);
    expectSameBits(p.label, results, again);
  }
  const Results kept = forwardCall(p).set("saveForBackward", 1).run();
  backwardCall(p).saved(kept.saved).run();
  backwardCall(p).run();
}

void testCell(Sizes cell, uint64_t seed) {
  Random random(seed);
  int64_t index = static_cast<int64_t>(seed);
  for (int64_t K : kDims)
    for (int64_t V : kDims) {
      ++index;
      if (quick() && index % 6 != 0) continue;
      Sizes s = cell;
      const int64_t* heads = kHeads[random.below(std::size(kHeads))];
      s.H = heads[0];
      s.HV = heads[1];
      s.B = K * V > 1100 ? 1 : 1 + random.below(2);
      s.T = kTokens[index % std::size(kTokens)];
      s.K = K;
      s.V = V;
      expectProblem(drawProblem(s, kNumbers[random.below(std::size(kNumbers))], random.below(2), index), index);
      if (index % 12 == 0) runHostile(drawProblem(s, Numbers::Hostile, true, index));
    }
}

// Sums over K in stretches, more column blocks than one, more tokens than a chunk.
void testLarge(Sizes s, uint64_t seed) {
  const bool wide = seed % 2;
  s.T = wide ? 20 : quick() ? 140 : 300;
  s.K = wide ? 131 : 20;
  s.V = wide ? 130 : 9;
  expectProblem(drawProblem(s, Numbers::Mild, true, seed), static_cast<int64_t>(seed));
}

const bool added = [] {
  constexpr const char* kGates[] = {"none", "head", "token", "channel"};
  uint64_t seed = 0;
  for (int gate = 0; gate < 4; ++gate)
    for (int n = 0; n <= 3; ++n) {  // 0: additive
      Sizes s;
      s.gate = static_cast<Gate>(gate);
      s.delta = n > 0;
      s.n = std::max(n, 1);
      const std::string name = std::string(kGates[gate]) + (n ? " delta n=" + std::to_string(n) : " additive");
      seed += 101;
      addTest("recurrence " + name, [=] { testCell(s, seed); });
      addTest("recurrence " + name + ", large", [=] { testLarge(s, seed); });
    }
  return true;
}();

TEST("recurrence: empty tensors") {
  for (const bool noBatch : {false, true}) {
    Sizes s{noBatch ? 0 : 2, noBatch ? 5 : 0, 1, 2, 17, 9, 1, Gate::Channel, true};
    GridProblem p = drawProblem(s, Numbers::Mild, true, 7);
    for (const bool states : {true, false}) {
      if (!states) p.initialState = p.dFinalState = Array();
      expectProblem(p, 0);
      expectProblem(p, 1);
    }
  }
}

TEST("recurrence: saved of another problem is refused") {
  Sizes s{1, 20, 1, 1, 8, 8, 1, Gate::Token, true};
  const GridProblem p = drawProblem(s, Numbers::Mild, false, 3);
  s.T = 21;
  const GridProblem other = drawProblem(s, Numbers::Mild, false, 3);
  const auto saved = forwardCall(p).set("saveForBackward", 1).run().saved;
  bool refused = false;
  try {
    backwardCall(other).saved(saved).run();
  } catch (const Error& e) {
    refused = std::strstr(e.what(), "saved") != nullptr;
  }
  check(refused, "expected an error that names saved");
}

}  // namespace
}  // namespace rankone::test
