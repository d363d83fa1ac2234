// The launch of one schedule of the fused LoRA product. Each dtype of products has a file of its own.
#pragma once
#include <algorithm>

#include "lora_plan.h"
#include "stream.h"
//
#include "lora_forward.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

struct LoraCall {
  Stream& stream;
  const RankoneLora& problem;
  LoraForwardArgs args;  // but for what the schedule decides
};

// Whether the device has the shared memory for it.
bool loraForwardBf16(LoraCall& call);
bool loraForwardF16(LoraCall& call);
void loraForwardF32(LoraCall& call);

// On Hopper: wgmma, whatever the number of rows, so that a row's bits are its own.
bool loraTakesHopper(const LoraCall& call);
// Whether anything was launched: the library may have been built without code for it.
bool loraHopperBf16(LoraCall& call);
bool loraHopperF16(LoraCall& call);

// x as products of `dtype` read it, its rows in the order of the launch where that is another (null: as they come): in
// memory of its own where it is not so already.
Scratch<uint8_t> makeOperand(Stream& stream, const RankoneLora& problem, LoraForwardArgs& args, int32_t dtype,
                             const uint32_t* order);

constexpr size_t kKiB = 1024;

// Of a multiprocessor, by compute capability; a block may have all but 1 KiB.
inline size_t sharedMemory(const RankoneDeviceInfo& info) {
  if (info.major == 8 && info.minor == 0) return 164 * kKiB;
  return info.major == 9 || info.major == 10 ? 228 * kKiB : 100 * kKiB;
}

// The dtypes of the factors A that come.
struct LoraDTypes {
  bool come[3] = {};

  explicit LoraDTypes(const RankoneLora& p) {
    for (int64_t e = 0; e < p.adapterCount; ++e)
      if (!p.adapters[e].aIndex) come[p.adapters[e].a.dtype] = true;
  }
};

template <class Schedule>
size_t sharedBytes(const LoraCall& call) {
  return offsetof(LoraShared<Schedule>, ring) +
         loraRing<Schedule>(call.args.format, call.args.hasBase, LoraDTypes(call.problem).come);
}

// A plan's arrays and what its pieces of work share, in device memory. The arguments are valid as long as this lives.
struct LoraWork {
  LoraPlan plan;
  LoraForwardArgs args;
  Scratch<uint8_t> image;
  Scratch<float> t, w, mixed;
  Scratch<uint32_t> counters;

  // For tiles of this many rows and outputs, and strips of this many ranks.
  LoraWork(const LoraCall& call, int rows, int outputs, int ranks, bool inOrder);

  int64_t items() const {
    return args.stripCount + (args.hasUses ? args.tileCount : 0) + args.tileCount * args.blockCount;
  }
  simt::Launch how() const { return args.hasUses ? simt::Launch::CORESIDENT : simt::Launch::PLAIN; }
};

template <class Schedule>
void run(LoraCall& call) {
  using Base = typename Schedule::Base;
  Stream& stream = call.stream;
  const LoraWork work(call, Base::BM, Base::BN, Schedule::RANKS, false);
  const size_t shared = sharedBytes<Schedule>(call);
  const int64_t fit = static_cast<int64_t>(sharedMemory(stream.info()) / (shared + kKiB));
  const int64_t resident = std::clamp<int64_t>(fit, 1, Schedule::RESIDENT) * stream.info().multiprocessors;
  const auto blocks = static_cast<unsigned>(std::min(work.items(), resident));
  stream.launchAs(work.how(), "loraForward", loraForwardKernel<Schedule>, dim3(blocks), dim3(Schedule::THREADS), shared,
                  work.args);
}

}  // namespace rankone::cuda
