#include "ops/segments.h"

#include "ops/shapes.h"

namespace rankone {
namespace {

int inputAt(const OpSpec& spec, std::string_view name) {
  for (size_t i = 0; i < spec.inputs.size(); ++i)
    if (name == spec.inputs[i].name) return static_cast<int>(i);
  return -1;
}

int optionAt(const OpSpec& spec, std::string_view name) {
  for (size_t i = 0; i < spec.options.size(); ++i)
    if (name == spec.options[i].name) return static_cast<int>(i);
  return -1;
}

// [B,rows,heads,dim] of `like` with `n` rows in the place of `of`.
Tensor shapeOnly(const Tensor& like, int64_t rows) {
  Tensor t;
  t.setShape({like.shape[0], rows, like.shape[2], like.shape[3]});
  t.dtype = like.dtype;
  return t;
}

}  // namespace

Call recurrenceCallOf(const Call& call) {
  const OpSpec& spec = *call.spec;
  Call inner = innerCall(recurrenceOp, call);
  inner.inner = false;  // dtypes are this call's own
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const int to = inputAt(recurrenceOp, spec.inputs[i].name);
    if (to >= 0) inner.inputs[to] = call.input(static_cast<int>(i));
  }
  const int householder = optionAt(spec, "numHouseholder"), dO = inputAt(spec, "dO");
  expectInteger(call, householder, 1, 8);
  const int64_t n = call.integer(householder, 1);
  Tensor &q = inner.inputs[recurrence_inputs::kQ], &v = inner.inputs[recurrence_inputs::kV];
  if (!q.present()) {
    const int k = inputAt(spec, "k");
    expectRank(call, k, 4, n == 1 ? "[B,T,H,K]" : "[B,T*n,H,K]");
    const Tensor& keys = call.input(k);
    if (keys.shape[1] % n != 0)
      fail(ErrorKind::Range, "k: expected a multiple of numHouseholder = %lld rows, got shape %s",
           static_cast<long long>(n), keys.shapeText().c_str());
    if (keys.shape[2] < 1)
      fail(ErrorKind::Range, "k: expected at least one head, got shape %s", keys.shapeText().c_str());
    if (keys.shape[3] < 1 || keys.shape[3] > maxStateDim(call))
      fail(ErrorKind::Range, "k: expected a size from 1 to %lld, got shape %s",
           static_cast<long long>(maxStateDim(call)), keys.shapeText().c_str());
    q = shapeOnly(keys, keys.shape[1] / n);
  }
  if (!v.present() && dO >= 0) {
    expectRank(call, dO, 4, "[B,T,HV,V]");
    const Tensor& gradient = call.input(dO);
    expectShape(call, dO, {q.shape[0], q.rank == 4 ? q.shape[1] : 0, gradient.shape[2], gradient.shape[3]},
                "[B,T,HV,V]");
    if (gradient.shape[3] < 1 || gradient.shape[3] > maxStateDim(call))
      fail(ErrorKind::Range, "dO: expected a size from 1 to %lld, got shape %s",
           static_cast<long long>(maxStateDim(call)), gradient.shapeText().c_str());
    expectCountable("dO", {gradient.shape[0], gradient.shape[1], n, gradient.shape[2], gradient.shape[3]});
    v = shapeOnly(gradient, gradient.shape[1] * n);
  }
  return inner;
}

RecurrenceProblem segmentProblem(const Call& inner, bool planning) {
  RecurrenceProblem p{};
  std::vector<float> none;
  bindProblem(inner, p, planning ? nullptr : &none);
  return p;
}

}  // namespace rankone
