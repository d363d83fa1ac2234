// y = addend + scale x (sum_i A_i (x) B_i)^T and its gradients, without the product of A and B.
//
// With a row of x as a matrix X [inA, inB] its row of y is the matrix Y = sum_i A_i X B_i^T [outA, outB]. One product
// with every B over all rows leaves T_i = X B_i^T [inA, outB] a row, and a second one, summed over i, Y. Backwards
// U_i = A_i^T dY [inA, outB]: dX = sum_i U_i B_i, dA_i = sum dY T_i^T, dB_i = sum U_i^T X.
#include <algorithm>

#include "core/workspace.h"
#include "kernels/convert.h"
#include "kernels/matmul.h"
#include "kernels/row_sum.h"
#include "kernels/scaled_sum.h"
#include "ops/gradients.h"
#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kX, kA, kB, kAddend, kDY = kAddend };
enum Option { kScale, kGradDtype };
enum Gradient { kDX, kDA, kDB };

// As matmul's orders of addition have them: up to so many rows against lines along K are dot products, and up to so
// many columns may change places with the rows.
constexpr int64_t kDotRows = 4, kFewColumns = 8;
constexpr int64_t kSlabFloats = int64_t{1} << 22;  // of T or U at a time

struct Problem {
  int64_t terms, outA, inA, outB, inB, M;
  int64_t in() const { return inA * inB; }
  int64_t out() const { return outA * outB; }
  // Rows at a time, by shape alone.
  int64_t slab() const {
    return std::max<int64_t>(1, std::min(M, kSlabFloats / std::max<int64_t>(1, terms * inA * outB)));
  }
};

Problem bind(const Call& call) {
  const Tensor &x = call.input(kX), &a = call.input(kA), &b = call.input(kB);
  expectMinRank(call, kX, 1, "[...,inA * inB]");
  expectDType(call, kA, kX, true);
  expectDType(call, kB, kX, true);
  if (a.rank != 3) expectRank(call, kA, 2, "[outA,inA] or [terms,outA,inA]");
  if (b.rank != a.rank) expectRank(call, kB, a.rank, a.rank == 3 ? "[terms,outB,inB]" : "[outB,inB]");
  Problem p;
  p.terms = a.rank == 3 ? a.shape[0] : 1;
  p.outA = a.shape[a.rank - 2];
  p.inA = a.shape[a.rank - 1];
  p.outB = b.shape[b.rank - 2];
  p.inB = b.shape[b.rank - 1];
  if (a.rank == 3) expectShape(call, kB, {p.terms, p.outB, p.inB}, "[terms,outB,inB]");
  expectCountable("b", {p.terms, p.outA, p.inA, p.outB, p.inB});
  if (x.shape[x.rank - 1] != p.in())
    fail(ErrorKind::Range, "x: expected shape [...,inA * inB] = [...,%lld] with a %s and b %s, got %s",
         static_cast<long long>(p.in()), a.shapeText().c_str(), b.shapeText().c_str(), x.shapeText().c_str());
  p.M = outerSize(x, 1);
  expectFinite(call, kScale);
  return p;
}

void expectRowsOfX(const Call& call, int input, int64_t out) {
  Tensor expected = call.input(kX);
  expected.shape[expected.rank - 1] = out;
  if (!call.input(input).sameShape(expected))
    fail(ErrorKind::Range, "%s: expected shape [...,outA * outB] = %s, got %s", call.spec->inputs[input].name,
         expected.shapeText().c_str(), call.input(input).shapeText().c_str());
}

void plan(Call& call) {
  expectInputs(call);
  const Problem p = bind(call);
  expectDType(call, kAddend, kX, true);
  if (call.input(kAddend).present()) expectRowsOfX(call, kAddend, p.out());
  const Tensor& x = call.input(kX);
  int64_t shape[kMaxRank];
  std::copy_n(x.shape, x.rank, shape);
  shape[x.rank - 1] = p.out();
  setOutput(call, 0, shape, x.rank, x.dtype);
}

// An input as float32: itself, or a copy.
class Floats {
 public:
  Floats(const Tensor& t, int64_t at, int64_t count, const CancelFlag* cancel) : data_(t.f32() + at) {
    if (t.dtype == DType::F32) return;
    copy_ = AlignedBuffer(static_cast<size_t>(count) * sizeof(float));
    widenAll(t.data, t.dtype, at, count, copy_.f32(), cancel);
    data_ = copy_.f32();
  }
  const float* data() const { return data_; }

 private:
  AlignedBuffer copy_;
  const float* data_;
};

AlignedBuffer floatBuffer(int64_t count) { return AlignedBuffer(static_cast<size_t>(count) * sizeof(float)); }

MatmulArgs product(const float* a, const float* b, float* y, int64_t M, int64_t N, int64_t K, const Call& call) {
  MatmulArgs m;
  m.a = a;
  m.b = b;
  m.y = y;
  m.M = M;
  m.N = N;
  m.K = K;
  m.cancel = call.cancel;
  return m;
}

// T [terms, rows, inA, outB] = X B^T. Whatever the number of rows, a row's sums go the same way: few rows are filled up
// with zeros to more than those that matmul multiplies as dot products.
void multiplyB(const Problem& p, const float* x, const float* b, int64_t rows, float* t, const Call& call) {
  const int64_t lines = rows * p.inA, filled = std::max(lines, kDotRows + 1);
  const bool fill = lines < filled;
  const AlignedBuffer few = floatBuffer(fill ? filled * p.inB : 0), own = floatBuffer(fill ? filled * p.outB : 0);
  if (fill) {
    std::copy_n(x, lines * p.inB, few.f32());
    std::fill_n(few.f32() + lines * p.inB, (filled - lines) * p.inB, 0.0f);
  }
  for (int64_t i = 0; i < p.terms; ++i) {
    float* to = t + i * lines * p.outB;
    MatmulArgs m = product(fill ? few.f32() : x, b + i * p.outB * p.inB, fill ? own.f32() : to, fill ? filled : lines,
                           p.outB, p.inB, call);
    m.transposeB = true;
    matmul(m);
    if (fill) std::copy_n(own.f32(), lines * p.outB, to);
  }
}

void run(const Call& call) {
  const Problem p = bind(call);
  const Tensor &x = call.input(kX), &y = call.outputs[0], &addend = call.input(kAddend);
  if (y.size() == 0) return;
  const int64_t slab = p.slab(), sizeOfT = slab * p.inA * p.outB;
  const Floats a(call.input(kA), 0, call.input(kA).size(), call.cancel);
  const Floats b(call.input(kB), 0, call.input(kB).size(), call.cancel);
  const bool direct = y.dtype == DType::F32;
  const AlignedBuffer t = floatBuffer(p.terms * sizeOfT), own = floatBuffer(direct ? 0 : slab * p.out());
  for (int64_t first = 0; first < p.M; first += slab) {
    const int64_t rows = std::min(slab, p.M - first), at = first * p.out();
    const Floats part(x, first * p.in(), rows * p.in(), call.cancel);
    multiplyB(p, part.data(), b.data(), rows, t.f32(), call);
    float* sums = direct ? y.f32() + at : own.f32();
    MatmulArgs m = product(a.data(), t.f32(), sums, p.outA, p.outB, p.inA, call);
    m.batch = rows;
    m.bStep = p.inA * p.outB;
    m.reduce = p.terms;
    m.aReduce = p.outA * p.inA;
    m.bReduce = rows * m.bStep;
    matmul(m);
    ScaledSumArgs sum;
    sum.x = sums;
    if (addend.present()) {
      sum.addend = FloatView(addend);
      sum.addend.data = sum.addend.at(at);
    }
    sum.y = const_cast<char*>(FloatView(y).at(at));
    sum.dtype = y.dtype;
    sum.scale = static_cast<float>(call.number(kScale, 1));
    sum.size = rows * p.out();
    sum.cancel = call.cancel;
    if (addend.present() || sum.scale != 1 || !direct) scaledSum(sum);
  }
}

void planBackward(Call& call) {
  expectInputs(call);
  const Problem p = bind(call);
  expectDType(call, kDY, kX);
  expectRowsOfX(call, kDY, p.out());
  for (int i : {kX, kA, kB}) setOutputLike(call, i, call.input(i), gradientDType(call, kGradDtype, call.input(i)));
}

void runBackward(const Call& call) {
  const Problem p = bind(call);
  const int64_t slab = p.slab(), slabs = p.M ? (p.M + slab - 1) / slab : 0, sizeOfT = slab * p.inA * p.outB;
  const int64_t sizeOfA = p.terms * p.outA * p.inA, sizeOfB = p.terms * p.outB * p.inB;
  const double scale = call.number(kScale, 1);
  GradientBuffers gradients(call);
  float *dX = gradients.f32(kDX), *dA = gradients.f32(kDA), *dB = gradients.f32(kDB);
  const Floats a(call.input(kA), 0, sizeOfA, call.cancel), b(call.input(kB), 0, sizeOfB, call.cancel);
  const AlignedBuffer t = floatBuffer(p.terms * sizeOfT), u = floatBuffer(p.terms * sizeOfT);
  // gradients of every slab, added up at the end
  const AlignedBuffer partA = floatBuffer(slabs * sizeOfA), partB = floatBuffer(slabs * sizeOfB);
  for (int64_t s = 0; s < slabs; ++s) {
    const int64_t first = s * slab, rows = std::min(slab, p.M - first), stepT = p.inA * p.outB;
    const Floats x(call.input(kX), first * p.in(), rows * p.in(), call.cancel);
    const Floats dY(call.input(kDY), first * p.out(), rows * p.out(), call.cancel);
    multiplyB(p, x.data(), b.data(), rows, t.f32(), call);
    for (int64_t i = 0; i < p.terms; ++i) {
      float *tOf = t.f32() + i * rows * stepT, *uOf = u.f32() + i * rows * stepT;
      const int64_t ofA = i * p.outA * p.inA, ofB = i * p.outB * p.inB;
      MatmulArgs m = product(a.data() + ofA, dY.data(), uOf, p.inA, p.outB, p.outA, call);
      m.transposeA = true;
      m.batch = rows;
      m.bStep = p.out();
      matmul(m);
      m = product(dY.data(), tOf, partA.f32() + s * sizeOfA + ofA, p.outA, p.inA, p.outB, call);
      m.transposeB = true;
      m.reduce = rows;
      m.aReduce = p.out();
      m.bReduce = stepT;
      matmul(m);
      m = product(uOf, x.data(), partB.f32() + s * sizeOfB + ofB, p.outB, p.inB, rows * p.inA, call);
      m.transposeA = true;
      matmul(m);
    }
    MatmulArgs m = product(u.f32(), b.data(), dX + first * p.in(), p.inA, p.inB, p.outB, call);
    m.batch = rows;
    m.aStep = stepT;
    m.reduce = p.terms;
    m.aReduce = rows * stepT;
    m.bReduce = p.outB * p.inB;
    if (p.inB > kFewColumns) {
      m.batch = 1;
      m.aStep = 0;
      m.M = rows * p.inA;
    }
    matmul(m);
  }
  const auto finish = [&](const float* from, float* to, int64_t count, int64_t rows) {
    if (rows != 1 || from != to) rowSum({from, to, rows, count, call.cancel, DType::F32, DType::F32});
    if (scale != 1) scaledSum({to, {}, to, DType::F32, static_cast<float>(scale), count, call.cancel});
  };
  finish(partA.f32(), dA, sizeOfA, slabs);
  finish(partB.f32(), dB, sizeOfB, slabs);
  finish(dX, dX, p.M * p.in(), 1);
  gradients.finish();
}

constexpr InputSpec kInputs[] = {
    {"x", true, kFloats}, {"a", true, kFloats}, {"b", true, kFloats}, {"addend", false, kFloats}};
constexpr InputSpec kBackwardInputs[] = {
    {"x", true, kFloats}, {"a", true, kFloats}, {"b", true, kFloats}, {"dY", true, kFloats}};
constexpr OptionSpec kOptions[] = {{"scale", OptionKind::Number}};
constexpr OptionSpec kBackwardOptions[] = {{"scale", OptionKind::Number},
                                           {"gradDtype", OptionKind::Choice, "f32|input"}};
constexpr OutputSpec kOutputs[] = {{"y"}};
constexpr OutputSpec kGradients[] = {{"dx"}, {"da"}, {"db"}};

}  // namespace

extern const OpSpec kroneckerLinearOp, kroneckerLinearBackwardOp;
const OpSpec kroneckerLinearOp{"kroneckerLinear", kInputs, kOptions, kOutputs, plan, run};
const OpSpec kroneckerLinearBackwardOp{
    "kroneckerLinearBackward", kBackwardInputs, kBackwardOptions, kGradients, planBackward, runBackward};

}  // namespace rankone
