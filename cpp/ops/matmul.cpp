// y = op(a) op(b) + bias and its gradients.
#include "kernels/matmul.h"

#include "kernels/row_sum.h"
#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kA, kB, kBias, kDY = kBias };
enum Option { kTransposeA, kTransposeB, kCompute, kWithBias, kGradDtype };
enum Gradient { kDA, kDB, kDBias };

struct Problem {
  int64_t M, N, K, batch;  // batch: of y
  bool batchedA, batchedB;
  const Tensor* outer;  // the argument whose leading dimensions y has
};

// The one copy of the shape rules: a [...,M,K] or [...,K,M], b [...,K,N] or [...,N,K].
Problem bind(const Call& call) {
  expectDType(call, kB, kA);
  expectCompute(call, kCompute);
  const Tensor &a = call.inputs[kA], &b = call.inputs[kB];
  const bool tA = call.flag(kTransposeA), tB = call.flag(kTransposeB);
  expectMinRank(call, kA, 2, tA ? "[...,K,M]" : "[...,M,K]");
  expectMinRank(call, kB, 2, tB ? "[...,N,K]" : "[...,K,N]");
  Problem p;
  p.M = a.shape[a.rank - (tA ? 1 : 2)];
  p.K = a.shape[a.rank - (tA ? 2 : 1)];
  p.N = b.shape[b.rank - (tB ? 2 : 1)];
  const int64_t inner = b.shape[b.rank - (tB ? 1 : 2)];
  if (inner != p.K)
    fail(ErrorKind::Range, "b: expected shape %s with K = %lld as in a %s, got %s", tB ? "[...,N,K]" : "[...,K,N]",
         static_cast<long long>(p.K), a.shapeText().c_str(), b.shapeText().c_str());
  p.batchedA = a.rank > 2;
  p.batchedB = b.rank > 2;
  bool same = a.rank == b.rank;
  for (int i = 0; same && i < a.rank - 2; ++i) same = a.shape[i] == b.shape[i];
  if (p.batchedA && p.batchedB && !same)
    fail(ErrorKind::Range, "b: expected no leading dimensions or those of a %s, got %s", a.shapeText().c_str(),
         b.shapeText().c_str());
  p.outer = p.batchedA ? &a : &b;
  p.batch = outerSize(*p.outer, 2);
  return p;
}

int resultShape(const Problem& p, int64_t (&shape)[kMaxRank]) {
  const int rank = p.outer->rank;
  for (int i = 0; i < rank - 2; ++i) shape[i] = p.outer->shape[i];
  shape[rank - 2] = p.M;
  shape[rank - 1] = p.N;
  return rank;
}

void plan(Call& call) {
  expectInputs(call);
  const Problem p = bind(call);
  expectDType(call, kBias, kA, true);
  if (call.inputs[kBias].present()) expectShape(call, kBias, {p.N}, "[N]");
  int64_t shape[kMaxRank];
  const int rank = resultShape(p, shape);
  setOutput(call, 0, shape, rank, call.inputs[kA].dtype);
}

// A batch against one shared b is a single product over all its rows.
void mergeRows(MatmulArgs& m) {
  if (m.transposeA || m.bStep != 0 || m.aStep != m.M * m.K) return;
  m.M *= m.batch;
  m.batch = 1;
}

void run(const Call& call) {
  const Problem p = bind(call);
  MatmulArgs m;
  m.a = call.inputs[kA].data;
  m.b = call.inputs[kB].data;
  m.bias = call.inputs[kBias].data;
  m.y = call.outputs[0].data;
  m.dtype = call.inputs[kA].dtype;
  m.biasDType = call.inputs[kBias].dtype;
  m.yDType = call.outputs[0].dtype;
  m.bf16 = call.integer(kCompute, 0) == 1;
  m.batch = p.batch;
  m.M = p.M;
  m.N = p.N;
  m.K = p.K;
  m.transposeA = call.flag(kTransposeA);
  m.transposeB = call.flag(kTransposeB);
  m.aStep = p.batchedA ? p.M * p.K : 0;
  m.bStep = p.batchedB ? p.K * p.N : 0;
  m.cancel = call.cancel;
  mergeRows(m);
  matmul(m);
}

void planBackward(Call& call) {
  expectInputs(call);
  const Problem p = bind(call);
  expectDType(call, kDY, kA);
  Tensor expected;
  expected.rank = resultShape(p, expected.shape);
  if (!call.inputs[kDY].sameShape(expected))
    fail(ErrorKind::Range, "dY: expected shape [...,M,N] = %s, got %s", expected.shapeText().c_str(),
         call.inputs[kDY].shapeText().c_str());
  const DType dtype = gradientDType(call, kGradDtype, call.inputs[kA]);
  setOutputLike(call, kDA, call.inputs[kA], dtype);
  setOutputLike(call, kDB, call.inputs[kB], dtype);
  if (call.flag(kWithBias)) setOutput(call, kDBias, {p.N}, dtype);
}

struct Factor {
  const void* data;
  int64_t step;  // from one product's to the next one's; 0: shared
  bool transposed;
};

// grad [rows, columns] = left [rows, inner] right [inner, columns]. An argument that was shared gets the sum over the
// batch, which is one longer product where the batch lies along the inner dimension of both factors.
void gradient(const Call& call, const Problem& p, Factor left, Factor right, int64_t rows, int64_t columns,
              int64_t inner, bool shared, const Tensor& grad) {
  MatmulArgs m;
  m.a = left.data;
  m.b = right.data;
  m.y = grad.data;
  m.dtype = call.inputs[kA].dtype;
  m.yDType = grad.dtype;
  m.bf16 = call.integer(kCompute, 0) == 1;
  m.M = rows;
  m.N = columns;
  m.K = inner;
  m.transposeA = left.transposed;
  m.transposeB = right.transposed;
  m.cancel = call.cancel;
  if (!shared) {
    m.batch = p.batch;
    m.aStep = left.step;
    m.bStep = right.step;
    mergeRows(m);
  } else if (left.transposed && !right.transposed) {
    m.K = inner * p.batch;
  } else {
    m.reduce = p.batch;
    m.aReduce = left.step;
    m.bReduce = right.step;
  }
  matmul(m);
}

void runBackward(const Call& call) {
  const Problem p = bind(call);
  const bool tA = call.flag(kTransposeA), tB = call.flag(kTransposeB);
  const void *a = call.inputs[kA].data, *b = call.inputs[kB].data, *dY = call.inputs[kDY].data;
  const int64_t stepA = p.batchedA ? p.M * p.K : 0, stepB = p.batchedB ? p.K * p.N : 0, stepY = p.M * p.N;
  const bool sharedA = !p.batchedA && p.batchedB, sharedB = !p.batchedB && p.batchedA;
  const Tensor &dA = call.outputs[kDA], &dB = call.outputs[kDB], &dBias = call.outputs[kDBias];
  if (tA)
    gradient(call, p, {b, stepB, tB}, {dY, stepY, true}, p.K, p.M, p.N, sharedA, dA);
  else
    gradient(call, p, {dY, stepY, false}, {b, stepB, !tB}, p.M, p.K, p.N, sharedA, dA);
  if (tB)
    gradient(call, p, {dY, stepY, true}, {a, stepA, tA}, p.N, p.K, p.M, sharedB, dB);
  else
    gradient(call, p, {a, stepA, !tA}, {dY, stepY, false}, p.K, p.N, p.M, sharedB, dB);
  if (dBias.present()) rowSum({dY, dBias.data, p.batch * p.M, p.N, call.cancel, call.inputs[kDY].dtype, dBias.dtype});
}

constexpr InputSpec kInputs[] = {{"a", true, kFloats}, {"b", true, kFloats}, {"bias", false, kFloats}};
constexpr InputSpec kBackwardInputs[] = {{"a", true, kFloats}, {"b", true, kFloats}, {"dY", true, kFloats}};
constexpr OptionSpec kOptions[] = {
    {"transposeA", OptionKind::Flag}, {"transposeB", OptionKind::Flag}, {"compute", OptionKind::Choice, "f32|bf16"}};
constexpr OptionSpec kBackwardOptions[] = {{"transposeA", OptionKind::Flag},
                                           {"transposeB", OptionKind::Flag},
                                           {"compute", OptionKind::Choice, "f32|bf16"},
                                           {"withBias", OptionKind::Flag},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"da"}, {"db"}, {"dBias"}};

}  // namespace

extern const OpSpec matmulOp, matmulBackwardOp;
const OpSpec matmulOp{"matmul", kInputs, kOptions, kOutputs, plan, run};
const OpSpec matmulBackwardOp{"matmulBackward", kBackwardInputs, kBackwardOptions,
                              kGradients,       planBackward,    runBackward};

}  // namespace rankone
