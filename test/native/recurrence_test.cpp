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
constexpr DType kDTypes[] = {DType::F32, DType::BF16, DType::F16};
constexpr Numbers kNumbers[] = {Numbers::Mild, Numbers::Strong, Numbers::Resets, Numbers::Growing};

struct References {
  Reference o, finalState, finalZ, dq, dk, dv, dg, dbeta, dInitialState, dALog, dDtBias, dInitialZ;
};

References referencesOf(const GridProblem& p) {
  Random random(1);
  const GridValues values = p.values(), moved = shaken(values, random);
  const GridForward f = referenceForward(p.sizes, values), f2 = referenceForward(p.sizes, moved);
  const GridGradients b = referenceBackward(p.sizes, values), b2 = referenceBackward(p.sizes, moved);
  return {withNoise(f.o, f2.o),
          withNoise(f.finalState, f2.finalState),
          withNoise(f.finalZ, f2.finalZ),
          withNoise(b.dq, b2.dq),
          withNoise(b.dk, b2.dk),
          withNoise(b.dv, b2.dv),
          withNoise(b.dg, b2.dg),
          withNoise(b.dbeta, b2.dbeta),
          withNoise(b.dInitialState, b2.dInitialState),
          withNoise(b.dALog, b2.dALog),
          withNoise(b.dDtBias, b2.dDtBias),
          withNoise(b.dInitialZ, b2.dInitialZ)};
}

void expectForward(const std::string& label, const Results& results, const References& ref) {
  expectNear(label + " o", results["o"], ref.o, Rows::Tokens, kOutputLimit);
  if (results.has("finalState"))
    expectNear(label + " finalState", results["finalState"], ref.finalState, Rows::States, kStateLimit);
  if (results.has("finalZ")) expectNear(label + " finalZ", results["finalZ"], ref.finalZ, Rows::States, kStateLimit);
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
  check(results.has("dALog") == p.aLog.present() && results.has("dDtBias") == p.dtBias.present() &&
            results.has("dInitialZ") == p.initialZ.present(),
        "%s: gradients of what is fused", label.c_str());
  if (p.aLog.present()) expectNear(label + " dALog", results["dALog"], ref.dALog, Rows::Whole, kGateLimit);
  if (p.dtBias.present()) expectNear(label + " dDtBias", results["dDtBias"], ref.dDtBias, Rows::Whole, kGateLimit);
  if (p.initialZ.present())
    expectNear(label + " dInitialZ", results["dInitialZ"], ref.dInitialZ, Rows::States, kStateLimit);
}

// As float32 and rounded to the dtypes of the arguments.
void expectRounded(const std::string& label, const Invocation& backward, const Results& f32) {
  const Results rounded = Invocation(backward).choose("gradDtype", "input").run();
  for (const auto& [name, array] : f32.outputs) {
    const Array& other = rounded[name];
    check(array.tensor().dtype == DType::F32, "%s: dtype of %s", label.c_str(), name.c_str());
    check(array.to(other.tensor().dtype).sameBits(other), "%s: %s is not rounded to its argument's dtype",
          label.c_str(), name.c_str());
  }
}

// The sequence in two calls that advance one state in place.
void expectDecode(const GridProblem& p, const References& ref, int64_t first) {
  const Sizes& s = p.sizes;
  StateBuffer state(s.B, s.HV, s.K, s.V, s.fused.normalize ? s.H : 0);
  for (int64_t i = 0; i < p.initialState.size(); ++i) state.data()[i] = static_cast<float>(p.initialState.at(i));
  for (int64_t i = 0; i < p.initialZ.size(); ++i) state.z()[i] = static_cast<float>(p.initialZ.at(i));
  for (const auto& [from, count] : {std::pair{int64_t{0}, first}, {first, s.T - first}}) {
    GridProblem part = tokensOf(p, from, count);
    part.initialState = part.initialZ = Array();
    const Results results = forwardCall(part).state(state).run();
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
  if (p.q.tensor().dtype != DType::F32) expectRounded(p.label, backwardCall(p), without);
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
      const Numbers numbers = kNumbers[random.below(std::size(kNumbers))];
      const bool states = random.below(2);
      expectProblem(drawProblem(s, numbers, states, index), index);
      if (index % 5 == 1) expectProblem(drawProblem(s, numbers, states, index, DType::BF16), index - 1);
      if (index % 5 == 2) expectProblem(drawProblem(s, numbers, states, index, DType::F16), index - 2);
      if (index % 12 == 0) runHostile(drawProblem(s, Numbers::Hostile, true, index, kDTypes[index / 12 % 3]));
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

// Norms, activations and the normalizer, each in some of the problems.
void testFused(Sizes s, uint64_t seed) {
  Random random(seed);
  constexpr int64_t kFusedDims[] = {3, 5, 16, 33, 66};  // one number has no direction to norm
  for (int i = 0; i < (quick() ? 3 : 15); ++i) {
    const int64_t* heads = kHeads[i % std::size(kHeads)];
    s.H = heads[0];
    s.HV = heads[1];
    s.B = 1 + i % 2;
    s.T = kTokens[(i + seed) % std::size(kTokens)];
    s.K = kFusedDims[random.below(std::size(kFusedDims))];
    s.V = kFusedDims[random.below(std::size(kFusedDims))];
    s.fused.qkL2norm = i % 3 != 1;
    s.fused.gate = s.gate >= Gate::Token && i % 4 != 3;
    s.fused.dtBias = s.fused.gate && random.below(3);
    s.fused.lowerBound = s.fused.gate && random.below(2) ? -2.5 : 0;
    s.fused.betaMost = s.delta ? static_cast<double>((i + 1) % 3) : 0;
    s.fused.normalize = s.gate == Gate::None && !s.delta;
    const Numbers numbers = kNumbers[random.below(std::size(kNumbers))];
    expectProblem(drawProblem(s, numbers, s.fused.normalize || random.below(2), seed + i, kDTypes[i % 3]), i);
    if (i % 5 == 0) runHostile(drawProblem(s, Numbers::Hostile, true, seed + i, kDTypes[i / 5]));
  }
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
      if (s.gate != Gate::Head) addTest("recurrence " + name + ", fused", [=] { testFused(s, seed); });
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
