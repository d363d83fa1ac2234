// Packed sequences: bit for bit what each sequence gives in a call of its own, in every form.
#include <cstring>

#include "check.h"
#include "compare.h"
#include "grid.h"

namespace rankone::test {
namespace {

// Empty ones at the start, within and at the end; a token, chunks and a little more.
const std::vector<std::vector<int64_t>> kLengths = {{0, 1, 2, 33, 0, 0, 17, 64, 0}, {70}, {0, 0}, {3, 16, 15, 1}};

struct Packed {
  GridProblem row;                 // with cuSeqlens
  std::vector<GridProblem> parts;  // the same sequences, each alone
};

Packed drawPacked(Sizes s, const std::vector<int64_t>& lengths, bool states, uint64_t seed, DType dtype) {
  const int64_t N = static_cast<int64_t>(lengths.size());
  Values starts{0};
  for (int64_t length : lengths) starts.push_back(starts.back() + static_cast<double>(length));
  s.B = 1;
  s.T = static_cast<int64_t>(starts.back());
  Packed p{drawProblem(s, Numbers::Mild, false, seed, dtype), {}};
  p.row.cuSeqlens = Array({N + 1}, starts, seed % 2 ? DType::I64 : DType::I32);
  if (states) {
    s.B = N;
    s.T = 1;
    const GridProblem perSequence = drawProblem(s, Numbers::Mild, true, seed + 1);
    p.row.initialState = perSequence.initialState;
    p.row.dFinalState = perSequence.dFinalState;
    p.row.initialZ = perSequence.initialZ;
    p.row.dFinalZ = perSequence.dFinalZ;
  }
  for (int64_t i = 0; i < N; ++i) {
    GridProblem part = tokensOf(p.row, static_cast<int64_t>(starts[i]), lengths[i]);
    part.cuSeqlens = Array();
    for (Array* a : {&part.initialState, &part.dFinalState, &part.initialZ, &part.dFinalZ}) *a = rowsOf(*a, i, 1);
    p.parts.push_back(part);
  }
  return p;
}

// A result of the packed row against the parts' results in their order.
void expectParts(const std::string& label, const Array& whole, const std::vector<Array>& parts) {
  const size_t width = dtypeSize(whole.tensor().dtype);
  int64_t at = 0;
  for (const Array& part : parts) {
    check(at + part.size() <= whole.size(), "%s: too few elements", label.c_str());
    const char* from = whole.tensor().as<char>() + static_cast<size_t>(at) * width;
    check(part.size() == 0 || !std::memcmp(from, part.tensor().data, part.tensor().bytes()),
          "%s: other bits than alone", label.c_str());
    at += part.size();
  }
  check(at == whole.size(), "%s: %lld elements, the sequences have %lld", label.c_str(),
        static_cast<long long>(whole.size()), static_cast<long long>(at));
}

// What has no place per token is a sum over the sequences.
void expectSum(const std::string& label, const Array& whole, const std::vector<Array>& parts) {
  Values sum(whole.size());
  for (const Array& part : parts)
    for (int64_t i = 0; i < part.size(); ++i) sum[i] += part.at(i);
  expectNear(label, whole, sum, kGateLimit);
}

void expectResults(const Packed& p, const Results& whole, const std::vector<Results>& parts) {
  for (const auto& [name, array] : whole.outputs) {
    std::vector<Array> arrays;
    for (const Results& part : parts) arrays.push_back(part[name]);
    const bool summed = name == "dALog" || name == "dDtBias" || (name == "dg" && p.row.sizes.gate == Gate::Head);
    (summed ? expectSum : expectParts)(p.row.label + ' ' + name, array, arrays);
  }
}

// Slots of a pool with room to spare, in no order.
void expectPooled(const Packed& p) {
  const Sizes& s = p.row.sizes;
  const int64_t N = static_cast<int64_t>(p.parts.size()), slots = N + 3, zHeads = s.fused.normalize ? s.H : 0;
  const int64_t size = s.HV * s.K * s.V, zSize = zHeads * s.K;
  StateBuffer pool(slots, s.HV, s.K, s.V, zHeads);
  for (int64_t i = 0; i < pool.size() + pool.zSize(); ++i) pool.data()[i] = 7;
  Array indices({N}, DType::I32);
  std::vector<char> taken(slots);
  for (int64_t i = 0; i < N; ++i) {
    const int64_t slot = (11 * i + 2) % slots;  // no slot twice: 11 divides none of the sizes in use
    check(!taken[slot], "slot %d twice", int(slot));
    taken[slot] = 1;
    indices.set(i, static_cast<double>(slot));
    for (int64_t e = 0; e < size; ++e)
      pool.data()[slot * size + e] = p.row.initialState.present() ? float(p.row.initialState.at(i * size + e)) : 0;
    for (int64_t e = 0; e < zSize; ++e)
      pool.z()[slot * zSize + e] = p.row.initialZ.present() ? float(p.row.initialZ.at(i * zSize + e)) : 0;
  }
  GridProblem stateless = p.row;
  stateless.initialState = stateless.initialZ = Array();
  const Results pooled = forwardCall(stateless).in("stateIndices", indices).state(pool).run();
  std::vector<Array> outputs;
  for (int64_t i = 0; i < N; ++i) {
    const GridProblem& part = p.parts[i];
    StateBuffer state(1, s.HV, s.K, s.V, zHeads);
    for (int64_t e = 0; e < size; ++e)
      state.data()[e] = part.initialState.present() ? float(part.initialState.at(e)) : 0;
    for (int64_t e = 0; e < zSize; ++e) state.z()[e] = part.initialZ.present() ? float(part.initialZ.at(e)) : 0;
    GridProblem alone = part;
    alone.initialState = alone.initialZ = Array();
    outputs.push_back(forwardCall(alone).state(state).run()["o"]);
    const int64_t slot = static_cast<int64_t>(indices.at(i));
    check(!std::memcmp(pool.data() + slot * size, state.data(), size * sizeof(float)), "%s: state of sequence %d",
          p.row.label.c_str(), int(i));
    check(!zHeads || !std::memcmp(pool.z() + slot * zSize, state.z(), zSize * sizeof(float)), "%s: z of sequence %d",
          p.row.label.c_str(), int(i));
  }
  expectParts(p.row.label + " pooled o", pooled["o"], outputs);
  for (int64_t slot = 0; slot < slots; ++slot)
    for (int64_t e = 0; e < size && !taken[slot]; ++e)
      check(pool.data()[slot * size + e] == 7, "%s: slot %d was nobody's", p.row.label.c_str(), int(slot));
}

void expectPacked(const Packed& p) {
  const auto expect = [&](const auto& callOf) {
    std::vector<Results> parts;
    for (const GridProblem& part : p.parts) parts.push_back(callOf(part).run());
    const Results whole = callOf(p.row).run();
    expectResults(p, whole, parts);
    return std::pair(whole, parts);
  };
  for (const char* mode : {"auto", "recurrent", "chunk"})
    expect([&](const GridProblem& part) { return forwardCall(part).choose("mode", mode).set("outputFinalState", 1); });
  expect([](const GridProblem& part) { return backwardCall(part); });
  const auto [whole, parts] =
      expect([](const GridProblem& part) { return forwardCall(part).set("saveForBackward", 1); });
  std::vector<Results> gradients;
  for (size_t i = 0; i < parts.size(); ++i) gradients.push_back(backwardCall(p.parts[i]).saved(parts[i].saved).run());
  expectResults(p, backwardCall(p.row).saved(whole.saved).run(), gradients);
  expectPooled(p);
}

void testPacked(Sizes s, uint64_t seed) {
  constexpr int64_t kSizes[][4] = {{1, 2, 17, 33}, {2, 2, 33, 5}, {1, 1, 64, 16}, {2, 4, 3, 70}};
  constexpr DType kDTypes[] = {DType::F32, DType::BF16, DType::F16};
  for (size_t i = 0; i < kLengths.size(); ++i) {
    if (quick() && i % 2) continue;
    const auto& [H, HV, K, V] = kSizes[(i + seed) % 4];
    s.H = H;
    s.HV = HV;
    s.K = K;
    s.V = V;
    s.fused = {};
    if ((i + seed / 101) % 2) {
      s.fused.qkL2norm = true;
      s.fused.gate = s.fused.dtBias = s.gate >= Gate::Token;
      s.fused.betaMost = s.delta ? 2 : 0;
      s.fused.normalize = s.gate == Gate::None && !s.delta;
    }
    expectPacked(drawPacked(s, kLengths[i], i != 1, seed + i, kDTypes[(i + seed) % 3]));
  }
}

const bool added = [] {
  constexpr const char* kGates[] = {"none", "head", "token", "channel"};
  uint64_t seed = 0;
  for (int gate = 0; gate < 4; ++gate)
    for (int n = 0; n <= 2; ++n) {  // 0: additive
      Sizes s;
      s.gate = static_cast<Gate>(gate);
      s.delta = n > 0;
      s.n = n > 1 ? n : 1;
      seed += 101;
      addTest(std::string("packed ") + kGates[gate] + (n ? " delta n=" + std::to_string(n) : " additive"),
              [=] { testPacked(s, seed); });
    }
  return true;
}();

}  // namespace
}  // namespace rankone::test
