#include "ops/sequences.h"

#include "ops/shapes.h"

namespace rankone {

Sequences sequencesOf(const Call& call, int input, int64_t B, int64_t T, bool planning) {
  Sequences p;
  const Tensor& starts = call.input(input);
  p.B = B;
  p.T = T;
  p.N = B;
  if (!starts.present()) return p;
  if (planning) expectStarts(call, input, B, T);
  p.N = starts.shape[0] - 1;
  p.starts = IndexView(starts);
  return p;
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
