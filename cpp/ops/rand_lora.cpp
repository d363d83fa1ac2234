// delta = scale sum_i B_i diag(lambda_i) A_i diag(gamma_i) and the diagonals' gradients.
#include "kernels/rand_lora.h"

#include "core/workspace.h"
#include "kernels/convert.h"
#include "kernels/matmul.h"
#include "ops/op.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kA, kB, kLambda, kGamma, kDDelta };
enum Option { kScale };
enum Gradient { kDLambda, kDGamma };

struct Problem {
  int64_t count, rank, in, out;
  bool shared;  // one A for all
};

Problem bind(const Call& call) {
  const Tensor &a = call.input(kA), &b = call.input(kB);
  expectRank(call, kB, 3, "[count,out,rank]");
  if (a.rank != 3) expectRank(call, kA, 2, "[rank,in] or [count,rank,in]");
  const Problem p{b.shape[0], b.shape[2], a.shape[a.rank - 1], b.shape[1], a.rank == 2};
  if (p.shared)
    expectShape(call, kA, {p.rank, p.in}, "[rank,in]");
  else
    expectShape(call, kA, {p.count, p.rank, p.in}, "[count,rank,in]");
  expectShape(call, kLambda, {p.count, p.rank}, "[count,rank]");
  expectShape(call, kGamma, {p.count, p.in}, "[count,in]");
  expectCountable("b", {p.count, p.rank, p.in, p.out});
  expectFinite(call, kScale);
  return p;
}

void plan(Call& call) {
  expectInputs(call);
  const Problem p = bind(call);
  setOutput(call, 0, {p.out, p.in});
}

AlignedBuffer floatBuffer(int64_t count) { return AlignedBuffer(static_cast<size_t>(count) * sizeof(float)); }

void run(const Call& call) {
  const Problem p = bind(call);
  const Tensor& delta = call.outputs[0];
  if (delta.size() == 0) return;
  const AlignedBuffer left = floatBuffer(p.count * p.out * p.rank), right = floatBuffer(p.count * p.rank * p.in);
  scaleColumns({FloatView(call.input(kB)), call.input(kLambda).f32(), left.f32(), false, call.number(kScale, 1),
                p.count, p.out, p.rank, call.cancel});
  scaleColumns({FloatView(call.input(kA)), call.input(kGamma).f32(), right.f32(), p.shared, 1, p.count, p.rank, p.in,
                call.cancel});
  MatmulArgs m;
  m.a = left.data();
  m.b = right.data();
  m.y = delta.data;
  m.M = p.out;
  m.N = p.in;
  m.K = p.rank;
  m.reduce = p.count;
  m.aReduce = p.out * p.rank;
  m.bReduce = p.rank * p.in;
  m.cancel = call.cancel;
  matmul(m);
}

void planBackward(Call& call) {
  expectInputs(call);
  const Problem p = bind(call);
  expectShape(call, kDDelta, {p.out, p.in}, "[out,in]");
  setOutputLike(call, kDLambda, call.input(kLambda));
  setOutputLike(call, kDGamma, call.input(kGamma));
}

void runBackward(const Call& call) {
  const Problem p = bind(call);
  if (p.count == 0) return;
  const Tensor& b = call.input(kB);
  const AlignedBuffer g = floatBuffer(p.count * p.rank * p.in);  // B_i^T dDelta
  const AlignedBuffer floats = floatBuffer(b.dtype == DType::F32 ? 0 : b.size());
  MatmulArgs m;
  m.a = b.data;
  if (b.dtype != DType::F32) {
    widenAll(b.data, b.dtype, 0, b.size(), floats.f32(), call.cancel);
    m.a = floats.data();
  }
  m.b = call.input(kDDelta).data;
  m.y = g.data();
  m.transposeA = true;
  m.batch = p.count;
  m.aStep = p.out * p.rank;
  m.M = p.rank;
  m.N = p.in;
  m.K = p.out;
  m.cancel = call.cancel;
  matmul(m);
  diagonalGradients({g.f32(), FloatView(call.input(kA)), p.shared, call.input(kLambda).f32(), call.input(kGamma).f32(),
                     call.outputs[kDLambda].f32(), call.outputs[kDGamma].f32(), call.number(kScale, 1), p.count, p.rank,
                     p.in, call.cancel});
}

constexpr InputSpec kInputs[] = {{"a", true, kFloats}, {"b", true, kFloats}, {"lambda"}, {"gamma"}};
constexpr InputSpec kBackwardInputs[] = {{"a", true, kFloats}, {"b", true, kFloats}, {"lambda"}, {"gamma"}, {"dDelta"}};
constexpr OptionSpec kOptions[] = {{"scale", OptionKind::Number}};
constexpr OutputSpec kOutputs[] = {{"delta"}};
constexpr OutputSpec kGradients[] = {{"dLambda"}, {"dGamma"}};

}  // namespace

extern const OpSpec randLoraOp, randLoraBackwardOp;
const OpSpec randLoraOp{"randLora", kInputs, kOptions, kOutputs, plan, run};
const OpSpec randLoraBackwardOp{"randLoraBackward", kBackwardInputs, kOptions, kGradients, planBackward, runBackward};

}  // namespace rankone
