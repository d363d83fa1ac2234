// Row norms of W + scale B M A.
#include "kernels/dora_norms.h"

#include "ops/op.h"
#include "ops/packed_weight.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum Input { kWeight, kA, kB, kMid };
enum Option { kScale };

void plan(Call& call) {
  expectInputs(call);
  const Tensor& weight = call.input(kWeight);
  if (call.identity) fail(ErrorKind::Type, "base: expected a packed weight, got 'identity'");
  if (call.base && weight.present()) fail(ErrorKind::Type, "weight: expected none beside base, got a tensor");
  if (!call.base && !weight.present()) fail(ErrorKind::Type, "weight: expected a tensor, or base, got neither");
  if (!call.base) expectRank(call, kWeight, 2, "[out,in]");
  expectRank(call, kA, 2, "[rank,in]");
  expectRank(call, kB, 2, "[out,rank]");
  const Tensor &a = call.input(kA), &mid = call.input(kMid);
  const int64_t out = call.base ? call.base->out() : weight.shape[0], rank = a.shape[0];
  expectShape(call, kA, {rank, call.base ? call.base->in() : weight.shape[1]}, "[rank,in]");
  int64_t midRank = rank;
  if (mid.present() && mid.rank != 1) {
    expectRank(call, kMid, 2, "[rank] or [midRank,rank]");
    midRank = mid.shape[0];
    expectShape(call, kMid, {midRank, rank}, "[midRank,rank]");
    expectShape(call, kB, {out, midRank}, "[out,midRank]");
  } else {
    if (mid.present()) expectShape(call, kMid, {rank}, "[rank]");
    expectShape(call, kB, {out, rank}, "[out,rank]");
  }
  expectFinite(call, kScale);
  setOutput(call, 0, {out});
}

void run(const Call& call) {
  const Tensor& mid = call.input(kMid);
  DoraNormsArgs p;
  if (call.base)
    p.packed = &call.base->panels();
  else
    p.weight = FloatView(call.input(kWeight));
  p.a = FloatView(call.input(kA));
  p.b = FloatView(call.input(kB));
  p.mid = FloatView(mid);
  p.diagonal = mid.rank == 1;
  p.matrix = mid.rank == 2;
  p.scale = call.number(kScale, 1);
  p.norms = call.outputs[0].f32();
  p.out = call.outputs[0].shape[0];
  p.in = call.input(kA).shape[1];
  p.rank = call.input(kA).shape[0];
  p.midRank = call.input(kB).shape[1];
  p.cancel = call.cancel;
  doraNorms(p);
}

constexpr InputSpec kInputs[] = {
    {"weight", false, kFloats}, {"a", true, kFloats}, {"b", true, kFloats}, {"mid", false}};
constexpr OptionSpec kOptions[] = {{"scale", OptionKind::Number}};
constexpr OutputSpec kOutputs[] = {{"norms"}};

}  // namespace

extern const OpSpec doraNormsOp;
const OpSpec doraNormsOp{.name = "doraNorms",
                         .inputs = kInputs,
                         .options = kOptions,
                         .outputs = kOutputs,
                         .plan = plan,
                         .run = run,
                         .takesBase = true};

}  // namespace rankone
