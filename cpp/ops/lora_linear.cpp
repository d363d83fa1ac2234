// y = d * (W x) + bias + the row's adapters. See kernels/lora.h.
#include <cstring>

#include "ops/lora_cuda.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum { kSaveRank = lora::kOwnOptions };
enum Output { kY, kT };

void plan(Call& call) {
  const lora::Problem& p = lora::plan(call);
  setOutputLike(call, kY, lora::outerShape(call, p.out), call.inputs[lora::kX].dtype);
  if (call.flag(kSaveRank)) setOutput(call, kT, {p.rows, p.perRow, p.maxRank});
}

void run(const Call& call) {
  const Tensor &y = call.outputs[kY], &t = call.outputs[kT];
  std::vector<float> gates;
  LoraArgs args = lora::arguments(call, gates);
  if (t.present() && t.size() > 0) {
    std::memset(t.data, 0, t.bytes());  // for slots without an adapter, and beyond an adapter's rank
    args.t = t.f32();
    args.tRanks = lora::problemOf(call).maxRank;
  }
  if (y.size() > 0) loraForward(args, y.data, y.dtype);
}

void runCuda(const Call& call) {
  const Tensor &y = call.outputs[kY], &t = call.outputs[kT];
  if (y.size() == 0) return;
  const lora::CudaProblem problem(call);
  RankoneLoraForward args{};
  args.problem = problem.args();
  args.problem.t = t.present() ? t.f32() : nullptr;
  args.problem.tRanks = lora::problemOf(call).maxRank;
  args.y = y.data;
  call.device->run(&RankoneCuda::loraForward, static_cast<const RankoneLoraForward*>(&args));
}

constexpr InputSpec kInputs[] = {RANKONE_LORA_INPUTS};
constexpr OptionSpec kOptions[] = {RANKONE_LORA_OPTIONS("f32|bf16|int8"), {"saveRank", OptionKind::Flag}};
constexpr OutputSpec kOutputs[] = {{"y"}, {"t"}};

}  // namespace

extern const OpSpec loraLinearOp;
const OpSpec loraLinearOp{.name = "loraLinear",
                          .inputs = kInputs,
                          .options = kOptions,
                          .outputs = kOutputs,
                          .plan = plan,
                          .run = run,
                          .runCuda = runCuda,
                          .takesBase = true,
                          .takesBank = true,
                          .inputGroup = "routing"};

}  // namespace rankone
