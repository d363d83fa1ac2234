#include <algorithm>
#include <cstring>

#include "lora.h"
#include "lora_plan.h"
//
#include "lora_forward.cuh"
#include "lora_operand.cuh"
#include "matmul_tile_fma.cuh"

namespace rankone::cuda {

namespace {

// Many rows; and few, where W is read once and what counts is how much of it is on its way.
template <class Element, bool DIRECT>
using ManyRows =
    LoraSchedule<MmaTile<Element, 128, 128, 64, 2, 4>, MmaTile<Element, 128, 64, 64, 4, 2>, DIRECT, DIRECT ? 3 : 2, 2>;
template <class Element, bool DIRECT, int ROWS>
using FewRows = LoraSchedule<MmaTile<Element, ROWS, 32, 128, 1, 4>, MmaTile<Element, ROWS, 32, 128, 1, 4>, DIRECT,
                             ROWS == 64 ? 4 : 6, 2>;
template <bool DIRECT>
using ManyFloats = LoraSchedule<FmaTile<128, 128, 32, 16, 16>, FmaTile<128, 64, 32, 16, 16>, DIRECT, 2, 2>;
template <bool DIRECT>
using FewFloats = LoraSchedule<FmaTile<16, 32, 64, 4, 32>, FmaTile<16, 32, 64, 4, 32>, DIRECT, 4, 2>;

constexpr size_t kKiB = 1024;

// Of a multiprocessor, by compute capability; a block may have all but 1 KiB.
size_t sharedMemory(const RankoneDeviceInfo& info) {
  if (info.major == 8 && info.minor == 0) return 164 * kKiB;
  return info.major == 9 || info.major == 10 ? 228 * kKiB : 100 * kKiB;
}

// Parts of the plan in one block of memory, which is copied at once.
class Image {
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

WeightFormat formatOf(const RankoneWeight& w) {
  WeightFormat f = {w.format, w.rowBytes, 0, 0, w.format == RANKONE_WEIGHT_INT8 ? 1 : 0};
  if (w.format != RANKONE_WEIGHT_Q8 && w.format != RANKONE_WEIGHT_NF4 && w.format != RANKONE_WEIGHT_Q4) return f;
  if (w.block < 8 || (w.block & (w.block - 1)) != 0)
    throw Failure(1, "scales of a number of columns that is no power of two from 8 on");
  f.block = static_cast<int32_t>(w.block);
  while (int64_t{1} << f.blockShift < w.block) ++f.blockShift;
  f.blocks = (w.in + w.block - 1) / w.block;
  return f;
}

struct Call {
  Stream& stream;
  const RankoneLora& problem;
  LoraForwardArgs args;
};

template <class Schedule>
size_t sharedBytes(const Call& call) {
  bool dtypes[3] = {};
  for (int64_t e = 0; e < call.problem.adapterCount; ++e)
    if (!call.problem.adapters[e].aIndex) dtypes[call.problem.adapters[e].a.dtype] = true;
  return offsetof(LoraShared<Schedule::Base::BN>, ring) +
         loraRing<Schedule>(call.args.format, call.args.hasBase, dtypes);
}

template <class Schedule>
void run(Call& call) {
  using Base = typename Schedule::Base;
  const RankoneLora& p = call.problem;
  Stream& stream = call.stream;
  LoraForwardArgs args = call.args;
  const LoraPlan plan(p, Base::BM, Schedule::Strip::BN);
  Image image;
  const size_t adapters = image.add(p.adapters, static_cast<size_t>(p.adapterCount));
  const size_t order = image.add(plan.order), tiles = image.add(plan.tiles), uses = image.add(plan.uses);
  const size_t pairs = image.add(plan.pairs), strips = image.add(plan.strips), columns = image.add(plan.columns);
  const Scratch<uint8_t> memory(stream, image.bytes());
  args.adapters = reinterpret_cast<const RankoneAdapter*>(memory.data() + adapters);
  args.order = reinterpret_cast<const uint32_t*>(memory.data() + order);
  args.tiles = reinterpret_cast<const LoraTile*>(memory.data() + tiles);
  args.uses = reinterpret_cast<const LoraUse*>(memory.data() + uses);
  args.pairs = reinterpret_cast<const uint32_t*>(memory.data() + pairs);
  args.strips = reinterpret_cast<const LoraStrip*>(memory.data() + strips);
  args.columns = reinterpret_cast<const LoraColumn*>(memory.data() + columns);
  args.tileCount = static_cast<int64_t>(plan.tiles.size());
  args.stripCount = static_cast<int64_t>(plan.strips.size());
  args.blockCount = (p.out + Base::BN - 1) / Base::BN;
  args.hasUses = !plan.uses.empty();

  Scratch<float> t, w, mixed;
  Scratch<uint32_t> counters;
  if (args.hasUses) {
    int64_t most = 1, mostRank = 1;
    bool mixes = false;
    for (const LoraUse& use : plan.uses) {
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

template <class Element, bool DIRECT>
void runHalves(Call& call) {
  const int64_t rows = call.problem.rows;
  const bool fits = sharedBytes<ManyRows<Element, DIRECT>>(call) + kKiB <= sharedMemory(call.stream.info());
  if (rows <= 16) return run<FewRows<Element, DIRECT, 16>>(call);
  if (rows <= 64 || !fits) return run<FewRows<Element, DIRECT, 64>>(call);
  run<ManyRows<Element, DIRECT>>(call);
}

template <bool DIRECT>
void runFloats(Call& call) {
  if (call.problem.rows <= 16) return run<FewFloats<DIRECT>>(call);
  run<ManyFloats<DIRECT>>(call);
}

}  // namespace

void loraForward(Stream& stream, const RankoneLoraForward& forward) {
  const RankoneLora& p = forward.problem;
  if (p.rows == 0) return;
  if (p.rows >= int64_t{kNoPair} / std::max<int64_t>(1, p.perRow))
    throw Failure(1, "more than 2^32 pairs of rows and adapters");
  if (p.t) stream.fill(p.t, 0, static_cast<size_t>(p.rows * p.perRow * p.tRanks) * sizeof(float));

  Call call = {stream, p, {}};
  LoraForwardArgs& args = call.args;
  // Products are made of x's own elements on the tensor cores, and of float32 otherwise.
  const int32_t dtype = p.compute == RANKONE_COMPUTE_F32    ? RANKONE_F32
                        : p.x.dtype != RANKONE_F32          ? p.x.dtype
                        : p.compute == RANKONE_COMPUTE_BF16 ? RANKONE_BF16
                                                            : RANKONE_F32;
  const int64_t size = dtype == RANKONE_F32 ? 4 : 2;
  args.operandBytes = p.in * size;
  args.operandStride = (args.operandBytes + 15) / 16 * 16;
  Scratch<uint8_t> operand;
  if (dtype == p.x.dtype && args.operandStride == args.operandBytes &&
      reinterpret_cast<uintptr_t>(p.x.data) % 16 == 0) {
    args.operand = static_cast<const uint8_t*>(p.x.data);
  } else {
    operand = Scratch<uint8_t>(stream, static_cast<size_t>(p.rows * args.operandStride));
    args.operand = operand.data();
    const int64_t stride = args.operandStride / size;
    const int64_t blocks =
        std::min<int64_t>((p.rows * stride + kOperandThreads - 1) / kOperandThreads, 8 * stream.info().multiprocessors);
    stream.launch("loraOperand", loraOperandKernel, dim3(static_cast<unsigned>(blocks)), dim3(kOperandThreads), 0,
                  static_cast<void*>(operand.data()), dtype, stride, p.x, p.rows, p.in);
  }
  args.x = p.x;
  args.in = p.in;
  args.out = p.out;
  args.hasBase = p.base != nullptr;
  args.identity = p.identity != 0;
  if (p.base) {
    args.format = formatOf(*p.base);
    args.codes = static_cast<const uint8_t*>(p.base->codes);
    args.scales = p.base->scales;
  }
  args.bias = p.bias;
  args.perRow = p.perRow;
  args.gates = p.gates;
  args.dropout = dropoutOf(p.dropout, p.seed);
  args.t = p.t;
  args.tStride = p.tRanks;
  args.y = forward.y;

  const bool direct = !p.base || p.base->format == dtype;  // the first formats are the dtypes
  if (dtype == RANKONE_F32) return direct ? runFloats<true>(call) : runFloats<false>(call);
  if (dtype == RANKONE_BF16) return direct ? runHalves<Bf16Element, true>(call) : runHalves<Bf16Element, false>(call);
  direct ? runHalves<F16Element, true>(call) : runHalves<F16Element, false>(call);
}

}  // namespace rankone::cuda
