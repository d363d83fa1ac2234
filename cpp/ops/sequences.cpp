#include "ops/sequences.h"

#include <algorithm>

#include "ops/shapes.h"

namespace rankone {

Sequences sequencesOf(const Call& call, int input, int64_t B, int64_t T, bool planning) {
  Sequences p;
  const Tensor& starts = call.input(input);
  p.B = B;
  p.T = T;
  p.N = B;
  if (!starts.present()) return p;
  if (B != 1)
    fail(ErrorKind::Range, "cuSeqlens: expected B = 1 with packed sequences, got B = %lld", static_cast<long long>(B));
  if (starts.shape[0] < 2)
    fail(ErrorKind::Range, "cuSeqlens: expected N + 1 >= 2 values, got %lld%s", static_cast<long long>(starts.shape[0]),
         starts.shape[0] == 0 ? " (a detached array has none)" : "");
  p.N = starts.shape[0] - 1;
  p.starts = IndexView(starts);
  if (!planning) return p;
  const IndexView& at = p.starts;
  if (at[0] != 0) fail(ErrorKind::Range, "cuSeqlens: expected 0 at 0, got %lld", static_cast<long long>(at[0]));
  for (int64_t i = 1; i <= p.N; ++i)
    if (at[i] < at[i - 1] || at[i] > T)
      fail(ErrorKind::Range, "cuSeqlens: expected values that do not decrease, up to T = %lld, got %lld at %lld",
           static_cast<long long>(T), static_cast<long long>(at[i]), static_cast<long long>(i));
  if (at[p.N] != T)
    fail(ErrorKind::Range, "cuSeqlens: expected T = %lld at %lld, got %lld", static_cast<long long>(T),
         static_cast<long long>(p.N), static_cast<long long>(at[p.N]));
  return p;
}

void expectStateRows(const Call& call, int input, int64_t sequences, int64_t slots) {
  expectShape(call, input, {sequences}, "[N]");
  const IndexView at(call.input(input));
  std::vector<int64_t> sorted(static_cast<size_t>(sequences));
  for (int64_t i = 0; i < sequences; ++i) {
    sorted[i] = at[i];
    if (at[i] < 0 || at[i] >= slots)
      fail(ErrorKind::Range, "%s: expected slots from 0 to %lld, got %lld at %lld", call.spec->inputs[input].name,
           static_cast<long long>(slots - 1), static_cast<long long>(at[i]), static_cast<long long>(i));
  }
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end())
    fail(ErrorKind::Range, "%s: expected every slot once, got %lld twice", call.spec->inputs[input].name,
         static_cast<long long>(*twice));
}

namespace {

void checkState(const Call& call, const StateArguments& a, const Sequences& s) {
  const StateBuffer& state = *call.state;
  const bool pool = call.input(a.stateIndices).present();
  if (call.input(a.initialState).present())
    fail(ErrorKind::Type, "initialState: expected none beside state, got a tensor");
  if ((!pool && state.batch != s.N) || state.valueHeads != a.HV || state.keyDim != a.K || state.valueDim != a.V)
    fail(ErrorKind::Range, "state: expected shape [%s,%s] = [%lld,%lld,%lld,%lld], got [%lld,%lld,%lld,%lld]",
         pool ? "slots" : s.name(), a.pattern, static_cast<long long>(pool ? state.batch : s.N),
         static_cast<long long>(a.HV), static_cast<long long>(a.K), static_cast<long long>(a.V),
         static_cast<long long>(state.batch), static_cast<long long>(state.valueHeads),
         static_cast<long long>(state.keyDim), static_cast<long long>(state.valueDim));
  if (state.keyHeads) fail(ErrorKind::Type, "state: expected one made without keyHeads");
  if (pool) expectStateRows(call, a.stateIndices, s.N, state.batch);
}

}  // namespace

StateMemory bindState(const Call& call, const StateArguments& a, const Sequences& s, bool planning) {
  StateMemory m;
  m.initial = call.input(a.initialState).f32();
  if (a.stateIndices < 0) return m;
  m.final = call.outputs[a.finalState].f32();
  const Tensor& indices = call.input(a.stateIndices);
  if (!call.state) {
    if (indices.present()) fail(ErrorKind::Type, "stateIndices: expected a state beside them, got none");
    return m;
  }
  if (planning) checkState(call, a, s);
  if (indices.present()) m.rows = IndexView(indices);
  m.initial = m.final = call.state->data();
  return m;
}

}  // namespace rankone
