// The launch of one schedule of the fused LoRA product. Each dtype of products has a file of its own.
#pragma once
#include <algorithm>
#include <cstring>

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

constexpr size_t kKiB = 1024;

// Of a multiprocessor, by compute capability; a block may have all but 1 KiB.
inline size_t sharedMemory(const RankoneDeviceInfo& info) {
  if (info.major == 8 && info.minor == 0) return 164 * kKiB;
  return info.major == 9 || info.major == 10 ? 228 * kKiB : 100 * kKiB;
}

// Parts of a plan in one block of memory, which is copied at once.
class LoraImage {
 public:
  template <class T>
  size_t add(const T* from, size_t count) {
    const size_t at = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(at + count * sizeof(T));
    if (count > 0) std::memcpy(bytes_.data() + at, from, count * sizeof(T));
    return at;
  }
  template <class T>
  size_t add(const std::vector<T>& from) {
    return add(from.data(), from.size());
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

template <class Schedule>
size_t sharedBytes(const LoraCall& call) {
  bool dtypes[3] = {};
  for (int64_t e = 0; e < call.problem.adapterCount; ++e)
    if (!call.problem.adapters[e].aIndex) dtypes[call.problem.adapters[e].a.dtype] = true;
  return offsetof(LoraShared<Schedule>, ring) + loraRing<Schedule>(call.args.format, call.args.hasBase, dtypes);
}

template <class Schedule>
void run(LoraCall& call) {
  using Base = typename Schedule::Base;
  const RankoneLora& p = call.problem;
  Stream& stream = call.stream;
  LoraForwardArgs args = call.args;
  const LoraPlan plan(p, Base::BM, Schedule::RANKS);
  LoraImage image;
  const size_t adapters = image.add(p.adapters, static_cast<size_t>(p.adapterCount));
  const size_t order = image.add(plan.order), tiles = image.add(plan.tiles), uses = image.add(plan.uses);
  const size_t pairs = image.add(plan.pairs), strips = image.add(plan.strips), columns = image.add(plan.columns),
               groups = image.add(plan.groups);
  const Scratch<uint8_t> memory(stream, image.bytes());
  args.adapters = reinterpret_cast<const RankoneAdapter*>(memory.data() + adapters);
  args.order = reinterpret_cast<const uint32_t*>(memory.data() + order);
  args.tiles = reinterpret_cast<const LoraTile*>(memory.data() + tiles);
  args.uses = reinterpret_cast<const LoraTileUse*>(memory.data() + uses);
  args.pairs = reinterpret_cast<const uint32_t*>(memory.data() + pairs);
  args.strips = reinterpret_cast<const LoraStrip*>(memory.data() + strips);
  args.columns = reinterpret_cast<const LoraColumn*>(memory.data() + columns);
  args.groups = reinterpret_cast<const LoraGroup*>(memory.data() + groups);
  args.tileCount = static_cast<int64_t>(plan.tiles.size());
  args.stripCount = static_cast<int64_t>(plan.strips.size());
  args.blockCount = (p.out + Base::BN - 1) / Base::BN;
  args.hasUses = !plan.uses.empty();

  Scratch<float> t, w, mixed;
  Scratch<uint32_t> counters;
  if (args.hasUses) {
    int64_t most = 1, mostRank = 1;
    bool mixes = false;
    for (const LoraTileUse& use : plan.uses) {
      const RankoneAdapter& a = p.adapters[use.adapter];
      mostRank = std::max(mostRank, a.rank);
      most = std::max({most, a.rank, a.midRank});
      mixes = mixes || a.mid || a.activation == RANKONE_ACT_SELF_TOP_K;
    }
    const int64_t count = p.rows * p.perRow;
    args.wStride = (most + 3) / 4 * 4;
    w = Scratch<float>(stream, static_cast<size_t>(count * args.wStride));
    args.w = w.data();
    if (mixes) mixed = Scratch<float>(stream, static_cast<size_t>(count * args.wStride));
    args.p = mixed.data();
    if (!p.t) {
      args.tStride = mostRank;
      t = Scratch<float>(stream, static_cast<size_t>(count * mostRank));
      args.t = t.data();
    }
    counters = Scratch<uint32_t>(stream, 2 * plan.tiles.size());
    stream.fill(counters.data(), 0, 2 * plan.tiles.size() * sizeof(uint32_t));
    args.stripsDone = counters.data();
    args.ranksDone = counters.data() + plan.tiles.size();
  }

  const size_t shared = sharedBytes<Schedule>(call);
  const int64_t fit = static_cast<int64_t>(sharedMemory(stream.info()) / (shared + kKiB));
  const int64_t resident = std::clamp<int64_t>(fit, 1, Schedule::RESIDENT) * stream.info().multiprocessors;
  const int64_t items = args.stripCount + (args.hasUses ? args.tileCount : 0) + args.tileCount * args.blockCount;
  const auto blocks = static_cast<unsigned>(std::min(items, resident));
  stream.launchAs(args.hasUses ? simt::Launch::CORESIDENT : simt::Launch::PLAIN, "loraForward",
                  loraForwardKernel<Schedule>, dim3(blocks), dim3(Schedule::THREADS), shared, args);
}

}  // namespace rankone::cuda
