// What a launch of the fused LoRA product needs in device memory.
#include <cstring>

#include "lora_forward_run.cuh"

namespace rankone::cuda {

namespace {

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

}  // namespace

// wgmma is of compute capability 9.0 alone. Coordinates of its copies have 31 bits.
bool loraTakesHopper(const LoraCall& call) {
  const RankoneDeviceInfo& info = call.stream.info();
  const RankoneLora& p = call.problem;
  constexpr int64_t most = int64_t{1} << 31;
  return info.major == 9 && info.minor == 0 && p.in < most - 64 && p.out < most - 256 && p.rows < most - 256;
}

LoraWork::LoraWork(const LoraCall& call, int rows, int outputs, int ranks, bool inOrder)
    : plan(call.problem, rows, ranks, inOrder), args(call.args) {
  const RankoneLora& p = call.problem;
  Stream& stream = call.stream;
  LoraImage parts;
  const size_t adapters = parts.add(p.adapters, static_cast<size_t>(p.adapterCount));
  const size_t order = parts.add(plan.order), tiles = parts.add(plan.tiles), uses = parts.add(plan.uses);
  const size_t pairs = parts.add(plan.pairs), strips = parts.add(plan.strips), columns = parts.add(plan.columns),
               groups = parts.add(plan.groups);
  image = Scratch<uint8_t>(stream, parts.bytes());
  args.adapters = reinterpret_cast<const RankoneAdapter*>(image.data() + adapters);
  args.order = reinterpret_cast<const uint32_t*>(image.data() + order);
  args.tiles = reinterpret_cast<const LoraTile*>(image.data() + tiles);
  args.uses = reinterpret_cast<const LoraTileUse*>(image.data() + uses);
  args.pairs = reinterpret_cast<const uint32_t*>(image.data() + pairs);
  args.strips = reinterpret_cast<const LoraStrip*>(image.data() + strips);
  args.columns = reinterpret_cast<const LoraColumn*>(image.data() + columns);
  args.groups = reinterpret_cast<const LoraGroup*>(image.data() + groups);
  args.tileCount = static_cast<int64_t>(plan.tiles.size());
  args.stripCount = static_cast<int64_t>(plan.strips.size());
  args.blockCount = (p.out + outputs - 1) / outputs;
  args.hasUses = !plan.uses.empty();

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
}

}  // namespace rankone::cuda
