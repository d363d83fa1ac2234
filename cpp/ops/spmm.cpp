// y = addend + scale x S^T for a sparse S, its gradients, and the product of two matrices at S's positions.
#include <cstring>

#include "kernels/sparse.h"
#include "ops/op.h"
#include "ops/shapes.h"
#include "ops/sparse_inputs.h"

namespace rankone {
namespace {

enum Input { kX, kValues, kRows, kIndptr, kColumns, kAddend, kDY = kAddend };
enum Option { kScale, kOutFeatures, kGradDtype = kOutFeatures };
enum Gradient { kDX, kDValues };

constexpr SparsePlaces kPlaces{kValues, kRows, kIndptr, kColumns};

// Sums over no rows. The pattern is not put in order for them: without rows a shape may claim any number of features.
void zeroFill(const Tensor& t) {
  if (t.size() > 0) std::memset(t.data, 0, t.bytes());
}

int64_t lastSize(const Tensor& t) { return t.shape[t.rank - 1]; }

// `other` has the leading dimensions of x, and so many features besides; -1: any number.
void expectRowsOf(const Call& call, int other, int64_t features) {
  const Tensor &x = call.input(kX), &t = call.input(other);
  Tensor expected = x;
  expected.shape[x.rank - 1] = features < 0 && t.rank == x.rank ? lastSize(t) : features;
  if (!t.sameShape(expected))
    fail(ErrorKind::Range, "%s: expected shape [...,out] with x %s%s%lld, got %s", call.spec->inputs[other].name,
         x.shapeText().c_str(), features < 0 ? " and out = any, " : " and out = ", static_cast<long long>(features),
         t.shapeText().c_str());
}

// Features of y: what tells them, in turn, and the rest has to agree.
int64_t outFeatures(const Call& call) {
  const Tensor &indptr = call.input(kIndptr), &addend = call.input(kAddend);
  expectInteger(call, kOutFeatures, 0, (int64_t{1} << 31) - 1);
  const int64_t given = call.integer(kOutFeatures, -1);
  int64_t out = given;
  if (out < 0 && addend.present() && addend.rank > 0) out = lastSize(addend);
  if (out < 0 && indptr.present() && indptr.rank == 1) out = indptr.shape[0] - 1;
  if (out < 0 && !indptr.present())
    fail(ErrorKind::Type, "outFeatures: expected an integer where neither indptr nor addend tells it, got none");
  return out;
}

void plan(Call& call) {
  expectInputs(call);
  expectMinRank(call, kX, 1, "[...,in]");
  expectDType(call, kValues, kX, true);
  expectDType(call, kAddend, kX, true);
  const Tensor& x = call.input(kX);
  const SparseIndices s = sparseIndices(call, kPlaces, outFeatures(call), lastSize(x));
  if (call.input(kAddend).present()) expectRowsOf(call, kAddend, s.out);
  expectFinite(call, kScale);
  int64_t shape[kMaxRank];
  for (int i = 0; i < x.rank; ++i) shape[i] = x.shape[i];
  shape[x.rank - 1] = s.out;
  setOutput(call, 0, shape, x.rank, x.dtype);
}

void run(const Call& call) {
  const Tensor &x = call.input(kX), &y = call.outputs[0], &addend = call.input(kAddend);
  if (y.size() == 0) return;
  const SparseOrder order(plannedIndices(call, kPlaces, lastSize(y), lastSize(x)), false);
  SpmmArgs p{x.data, y.data, x.dtype, y.dtype, {}, FloatView(call.input(kValues)), order.pattern(), 1, 0};
  if (addend.present()) p.addend = FloatView(addend);
  p.scale = call.number(kScale, 1);
  p.M = outerSize(x, 1);
  p.cancel = call.cancel;
  spmm(p);
}

void planBackward(Call& call) {
  expectInputs(call);
  expectMinRank(call, kX, 1, "[...,in]");
  expectDType(call, kValues, kX, true);
  expectDType(call, kDY, kX);
  expectMinRank(call, kDY, 1, "[...,out]");
  const Tensor &x = call.input(kX), &dY = call.input(kDY);
  expectRowsOf(call, kDY, -1);
  sparseIndices(call, kPlaces, lastSize(dY), lastSize(x));
  expectFinite(call, kScale);
  setOutputLike(call, kDX, x, gradientDType(call, kGradDtype, x));
  setOutputLike(call, kDValues, call.input(kValues), gradientDType(call, kGradDtype, call.input(kValues)));
}

void runBackward(const Call& call) {
  const Tensor &x = call.input(kX), &dY = call.input(kDY), &dX = call.outputs[kDX], &dValues = call.outputs[kDValues];
  const SparseIndices s = plannedIndices(call, kPlaces, lastSize(dY), lastSize(x));
  const double scale = call.number(kScale, 1);
  const int64_t M = outerSize(x, 1);
  if (dX.size() > 0) {
    const SparseOrder order(s, true);
    const FloatView values(call.input(kValues));
    spmm({dY.data, dX.data, dY.dtype, dX.dtype, {}, values, order.pattern(), scale, M, call.cancel});
  }
  if (M == 0) return zeroFill(dValues);
  if (s.count > 0) {
    const SparseOrder order(s, false);
    sddmm({FloatView(dY), FloatView(x), dValues.data, dValues.dtype, order.pattern(), scale, M, call.cancel});
  }
}

enum SddmmInput { kLeft, kRight, kSddmmRows, kSddmmIndptr, kSddmmColumns };

constexpr SparsePlaces kSddmmPlaces{-1, kSddmmRows, kSddmmIndptr, kSddmmColumns};

void planSddmm(Call& call) {
  expectInputs(call);
  expectMinRank(call, kLeft, 1, "[...,out]");
  expectMinRank(call, kRight, 1, "[...,in]");
  expectDType(call, kRight, kLeft);
  const Tensor &a = call.input(kLeft), &b = call.input(kRight);
  bool same = a.rank == b.rank;
  for (int i = 0; same && i < a.rank - 1; ++i) same = a.shape[i] == b.shape[i];
  if (!same)
    fail(ErrorKind::Range, "b: expected the leading dimensions of a %s, got %s", a.shapeText().c_str(),
         b.shapeText().c_str());
  sparseIndices(call, kSddmmPlaces, lastSize(a), lastSize(b));
  expectFinite(call, kScale);
  setOutput(call, 0, {call.input(kSddmmColumns).shape[0]});
}

void runSddmm(const Call& call) {
  const Tensor &a = call.input(kLeft), &b = call.input(kRight), &values = call.outputs[0];
  if (values.size() == 0) return;
  if (outerSize(a, 1) == 0) return zeroFill(values);
  const SparseOrder order(plannedIndices(call, kSddmmPlaces, lastSize(a), lastSize(b)), false);
  sddmm({FloatView(a), FloatView(b), values.data, values.dtype, order.pattern(), call.number(kScale, 1),
         outerSize(a, 1), call.cancel});
}

constexpr InputSpec kInputs[] = {{"x", true, kFloats},        {"values", true, kFloats},   {"rows", false, kIndices},
                                 {"indptr", false, kIndices}, {"columns", true, kIndices}, {"addend", false, kFloats}};
constexpr InputSpec kBackwardInputs[] = {{"x", true, kFloats},        {"values", true, kFloats},
                                         {"rows", false, kIndices},   {"indptr", false, kIndices},
                                         {"columns", true, kIndices}, {"dY", true, kFloats}};
constexpr InputSpec kSddmmInputs[] = {{"a", true, kFloats},
                                      {"b", true, kFloats},
                                      {"rows", false, kIndices},
                                      {"indptr", false, kIndices},
                                      {"columns", true, kIndices}};
constexpr OptionSpec kOptions[] = {{"scale", OptionKind::Number}, {"outFeatures", OptionKind::Integer}};
constexpr OptionSpec kBackwardOptions[] = {{"scale", OptionKind::Number},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OptionSpec kSddmmOptions[] = {{"scale", OptionKind::Number}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"dValues"}};
constexpr OutputSpec kSddmmOutputs[] = {{"values"}};

}  // namespace

extern const OpSpec spmmOp, spmmBackwardOp, sddmmOp;
const OpSpec spmmOp{"spmm", kInputs, kOptions, kOutputs, plan, run};
const OpSpec spmmBackwardOp{"spmmBackward", kBackwardInputs, kBackwardOptions, kGradients, planBackward, runBackward};
const OpSpec sddmmOp{"sddmm", kSddmmInputs, kSddmmOptions, kSddmmOutputs, planSddmm, runSddmm};

}  // namespace rankone
