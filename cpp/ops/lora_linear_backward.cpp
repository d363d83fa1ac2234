// Gradients of loraLinear. Those of the adapters, of which there may be any number, stand one behind the other by
// ascending id, with `layout` to tell them apart; ts/lora/loraLinearBackward.ts cuts them.
#include <cstring>

#include "ops/lora_cuda.h"
#include "ops/shapes.h"

namespace rankone {
namespace {

enum { kDY = lora::kOwnInputs, kT };
enum { kGradDtype = lora::kOwnOptions, kNeedDx, kNeedAdapters, kNeedGates, kNeedBias };
enum Output { kDx, kDGates, kDBias, kLayout, kDA, kDB, kDMid, kDRankBias, kDScale, kDBaseScale, kDOutBias, kOutputs };

constexpr int64_t kFields = 8;  // of an adapter in layout

// What one adapter has in each of the outputs from kDA on, in elements.
struct Sizes {
  int64_t of[kOutputs] = {};
  Sizes(const StoredAdapter& s, int64_t in, int64_t out) {
    of[kDA] = s.aRows * in;
    of[kDB] = s.bColumns * out;
    of[kDMid] = std::max<int64_t>(s.midRows, 1) * s.midColumns;
    of[kDRankBias] = s.rankBias;
    of[kDScale] = 1;
    of[kDBaseScale] = s.adapter.baseScale ? out : 0;
    of[kDOutBias] = s.adapter.outBias ? out : 0;
  }
};

void planAdapters(Call& call, const lora::Problem& p) {
  int64_t total[kOutputs] = {};
  for (const auto& adapter : p.held) {
    const Sizes sizes(*adapter, p.in, p.out);
    for (int o = kDA; o < kOutputs; ++o) total[o] += sizes.of[o];
  }
  setOutput(call, kLayout, {static_cast<int64_t>(p.held.size()), kFields}, DType::I32);
  for (int o = kDA; o < kOutputs; ++o) {
    if (total[o] == 0) continue;
    const int64_t width = o == kDA ? p.in : o == kDB || o == kDBaseScale || o == kDOutBias ? p.out : 1;
    setOutput(call, o, {total[o] / width, width});
  }
}

bool wanted(const Call& call, int option, bool there, const char* without) {
  if (call.flag(option) && !there)
    fail(ErrorKind::Range, "%s: expected false without %s, got true", argumentName(call.spec->options[option]).c_str(),
         without);
  return call.flag(option, there);
}

void plan(Call& call) {
  const lora::Problem& p = lora::plan(call);
  const Tensor &x = call.inputs[lora::kX], &dY = call.inputs[kDY], &t = call.inputs[kT],
               &gates = call.inputs[lora::kGates];
  expectDType(call, kDY, lora::kX);
  const Tensor expected = lora::outerShape(call, p.out);
  if (!dY.sameShape(expected))
    fail(ErrorKind::Range, "dY: expected shape [...,out] = %s, got %s", expected.shapeText().c_str(),
         dY.shapeText().c_str());
  if (t.present() && (t.rank != 3 || t.shape[0] != p.rows || t.shape[1] != p.perRow || t.shape[2] < p.maxRank))
    fail(ErrorKind::Range, "t: expected shape [M,k,ranks] = [%lld,%lld,%lld] of the forward, got %s",
         static_cast<long long>(p.rows), static_cast<long long>(p.perRow), static_cast<long long>(p.maxRank),
         t.shapeText().c_str());
  if (call.flag(kNeedDx, true)) setOutputLike(call, kDx, x, gradientDType(call, kGradDtype, x));
  if (wanted(call, kNeedGates, gates.present(), "gates")) setOutputLike(call, kDGates, gates, DType::F32);
  if (wanted(call, kNeedBias, call.inputs[lora::kBias].present(), "a bias")) setOutput(call, kDBias, {p.out});
  if (call.flag(kNeedAdapters, true)) planAdapters(call, p);
}

void writeLayout(const lora::Problem& p, int32_t* to) {
  const auto size = [](int64_t n) { return n ? static_cast<int32_t>(n) : -1; };
  for (size_t i = 0; i < p.held.size(); ++i, to += kFields) {
    const StoredAdapter& s = *p.held[i];
    const int32_t row[kFields] = {p.ids[i],
                                  size(s.aRows),
                                  size(s.bColumns),
                                  s.midColumns ? static_cast<int32_t>(s.midRows) : -1,
                                  size(s.midColumns),
                                  size(s.rankBias),
                                  s.adapter.baseScale ? 0 : -1,
                                  s.adapter.outBias ? 0 : -1};
    std::memcpy(to, row, sizeof row);
  }
}

// An output's memory with zeros, or null.
float* zeros(const Call& call, int output) {
  const Tensor& t = call.outputs[output];
  if (!t.present()) return nullptr;
  if (call.device)
    call.device->fill(t.data, 0, t.bytes());
  else
    std::memset(t.data, 0, t.bytes());
  return t.f32();
}

// Each adapter's places in the outputs, all set to zero: the kernel writes what belongs to ranks in use and to rows.
template <class Gradient>
std::vector<Gradient> places(const Call& call, const lora::Problem& p) {
  std::vector<Gradient> list(p.held.size());
  float* at[kOutputs] = {};
  for (int o = kDA; o < kOutputs; ++o) at[o] = zeros(call, o);
  for (size_t i = 0; i < list.size(); ++i) {
    const StoredAdapter& s = *p.held[i];
    const Sizes sizes(s, p.in, p.out);
    const auto take = [&](int o) {
      float* here = sizes.of[o] ? at[o] : nullptr;
      at[o] += sizes.of[o];
      return here;
    };
    Gradient& g = list[i];
    g.a = take(kDA);
    g.b = take(kDB);
    g.bRanks = s.bColumns;
    g.mid = take(kDMid);
    g.midRanks = s.midColumns;
    g.rankBias = take(kDRankBias);
    g.scale = take(kDScale);
    g.baseScale = take(kDBaseScale);
    g.outBias = take(kDOutBias);
  }
  return list;
}

void run(const Call& call) {
  const lora::Problem& p = lora::problemOf(call);
  const Tensor &t = call.inputs[kT], &dx = call.outputs[kDx];
  std::vector<float> gates;
  LoraArgs args = lora::arguments(call, gates);
  if (t.present() && t.size() > 0) {
    args.t = t.f32();
    args.tRanks = t.shape[2];
  }
  std::vector<LoraAdapterGradient> adapters;
  LoraGradients gradients;
  gradients.dY = call.inputs[kDY].data;
  gradients.dx = dx.present() ? dx.data : nullptr;
  gradients.dxDType = dx.dtype;
  gradients.dBias = zeros(call, kDBias);
  gradients.dGates = zeros(call, kDGates);
  if (call.outputs[kLayout].present()) {
    writeLayout(p, call.outputs[kLayout].as<int32_t>());
    adapters = places<LoraAdapterGradient>(call, p);
    gradients.adapters = adapters.data();
    gradients.adapterCount = static_cast<int64_t>(adapters.size());
  }
  if (p.rows > 0 && p.in > 0) loraBackward(args, gradients);
}

void runCuda(const Call& call) {
  const lora::Problem& p = lora::problemOf(call);
  const Tensor &t = call.inputs[kT], &dx = call.outputs[kDx];
  const lora::CudaProblem problem(call);
  RankoneLoraBackward args{};
  args.problem = problem.args();
  if (t.present() && t.size() > 0) {
    args.problem.t = t.f32();
    args.problem.tRanks = t.shape[2];
  }
  args.dY = cuda::floatsOf(call.inputs[kDY]);
  args.dx = dx.present() ? dx.data : nullptr;
  args.dxDType = static_cast<int32_t>(dx.dtype);
  args.dBias = zeros(call, kDBias);
  args.dGates = zeros(call, kDGates);
  std::vector<RankoneAdapterGradient> adapters;
  if (call.outputs[kLayout].present()) {
    writeLayout(p, call.outputs[kLayout].as<int32_t>());
    adapters = places<RankoneAdapterGradient>(call, p);
    if (!adapters.empty()) args.adapters = adapters.data();
  }
  if (p.rows > 0 && p.in > 0)
    call.device->run(&RankoneCuda::loraBackward, static_cast<const RankoneLoraBackward*>(&args));
}

constexpr InputSpec kInputs[] = {RANKONE_LORA_INPUTS, {"dY", true, kFloats}, {"t", false, kF32}};
constexpr OptionSpec kOptions[] = {RANKONE_LORA_OPTIONS("f32|bf16"),
                                   {"gradDtype", OptionKind::Choice, "f32|input"},
                                   {"dx", OptionKind::Flag, nullptr, "need"},
                                   {"adapters", OptionKind::Flag, nullptr, "need"},
                                   {"dGates", OptionKind::Flag, nullptr, "need"},
                                   {"dBias", OptionKind::Flag, nullptr, "need"}};
constexpr OutputSpec kGradients[] = {
    {"dx"},          {"dGates", false},    {"dBias", false},  {"layout", false},     {"dA", false},      {"dB", false},
    {"dMid", false}, {"dRankBias", false}, {"dScale", false}, {"dBaseScale", false}, {"dOutBias", false}};

}  // namespace

extern const OpSpec loraLinearBackwardOp;
const OpSpec loraLinearBackwardOp{.name = "loraLinearBackward",
                                  .inputs = kInputs,
                                  .options = kOptions,
                                  .outputs = kGradients,
                                  .plan = plan,
                                  .run = run,
                                  .runCuda = runCuda,
                                  .takesBase = true,
                                  .takesBank = true,
                                  .wrapped = true,
                                  .inputGroup = "routing"};

}  // namespace rankone
