// The fused LoRA product on CUDA: against float64, and what its bits depend on.
#include <algorithm>
#include <cstring>

#include "harness.h"
#include "lora_reference.h"

namespace rankone::test {
namespace {

// Of products whose operands have 8 or 11 significant bits, and of float32 ones.
constexpr double kBf16Limit = 6e-3, kF16Limit = 1e-3, kF32Limit = 2e-6;

constexpr LoraRouting kRoutings[] = {LoraRouting::NONE, LoraRouting::ONE, LoraRouting::SEGMENTS, LoraRouting::TOKENS,
                                     LoraRouting::TOP_K};

DType arrayDType(int32_t dtype) {
  return dtype == RANKONE_F32 ? DType::F32 : dtype == RANKONE_BF16 ? DType::BF16 : DType::F16;
}

struct Results {
  Array y, t;
};

Results run(Device& device, HostLora& p, int64_t tRanks) {
  std::vector<DeviceArray> memory;
  const auto upload = [&](const void* from, size_t bytes) -> const void* {
    RankoneError error;
    memory.emplace_back(device, Shape{static_cast<int64_t>(bytes)}, DType::U8);
    check(backend().upload(device.stream(), memory.back().data(), from, bytes, &error) == 0, "upload: %s",
          error.reason);
    return memory.back().data();
  };
  // as tokens of one sequence, for expectNear
  const DeviceArray y(device, {1, p.rows, 1, p.out}, arrayDType(p.x.dtype)), t(device, {1, p.rows, p.perRow, tRanks});
  RankoneLoraForward args = {p.upload(upload), y.data()};
  if (tRanks > 0) {
    args.problem.t = t.f32();
    args.problem.tRanks = tRanks;
  }
  device.loraForward(args);
  return {y.host(), tRanks > 0 ? t.host() : Array()};
}

double limitOf(const HostLora& p) {
  if (p.compute == RANKONE_COMPUTE_F32) return kF32Limit;
  if (p.x.dtype == RANKONE_F16) return kF16Limit;
  return p.x.dtype == RANKONE_BF16 || p.compute == RANKONE_COMPUTE_BF16 ? kBf16Limit : kF32Limit;
}

void expectRight(Device& device, HostLora p) {
  const int64_t tRanks = p.slots.empty() ? 0 : p.mostRank() + 3;
  const Results r = run(device, p, tRanks);
  const LoraReference reference = loraReference(p, tRanks);
  expectNear(p.label + ": y", r.y, {reference.y, {}}, Rows::Tokens, limitOf(p));
  if (tRanks > 0) expectNear(p.label + ": t", r.t, {reference.t, {}}, Rows::Whole, limitOf(p));
}

}  // namespace

TEST("lora: every base and routing, in every dtype") {
  Device device;
  uint64_t seed = 1;
  for (int32_t base = 0; base <= kNoBase; ++base)
    for (int32_t dtype : {RANKONE_F32, RANKONE_BF16, RANKONE_F16})
      for (LoraRouting routing : kRoutings) {
        ++seed;
        // a part of them under the slower checks
        if (quick() && seed % 7) continue;
        LoraDraw d = {routing == LoraRouting::ONE ? 9 : 19, seed % 2 ? 72 : 69, seed % 3 ? 40 : 37, base, routing};
        d.perRow = routing == LoraRouting::TOP_K ? 2 : 1;
        d.dtype = dtype;
        d.dropout = seed % 4 == 0 ? 0.3 : 0;
        expectRight(device, drawLora(d, seed));
      }
}

}  // namespace rankone::test
