// The launch of the fused LoRA product on Hopper. Each dtype of products has a file of its own.
#pragma once
#include "lora_forward_run.cuh"
#include "lora_hopper_producer.cuh"

// Last, as everywhere.
#include "simt/simt.cuh"

namespace rankone::cuda {

// Up to 64 rows, where W is read once and what counts is how much of it is on its way; tiles that are small enough for
// more multiprocessors to have one; and many rows, 128 for each warpgroup: 128 x 256 would read less of shared memory,
// but nothing is left then of 208 registers for what follows the products, and W, where it is expanded, would serve
// half as many rows.
template <class Element, int ROWS, int WARPS_M, int WARPS_N>
using StripTile = MmaTile<Element, ROWS, 64, 64, WARPS_M, WARPS_N, kConsumers>;
template <class Element>
using FewStripTile = MmaTile<Element, 64, 32, 128, 1, 4, kConsumers>;

template <class Element, bool DIRECT>
struct HopperSchedules {
  using Few = HopperSchedule<WgmmaTile<Element, 1, 1, 32, kConsumers>, FewStripTile<Element>, 16, true, 8, 6, 16>;
  using Middle =
      HopperSchedule<WgmmaTile<Element, 2, 1, 128, kConsumers>, StripTile<Element, 128, 4, 2>, 64, true, 6, 4, 6>;
  using Many =
      HopperSchedule<WgmmaTile<Element, 2, 2, 128, kConsumers>, StripTile<Element, 256, 8, 1>, 64, true, 4, 3, 4>;
};
template <class Element>
struct HopperSchedules<Element, false> {
  using Few =
      HopperSchedule<WgmmaTile<Element, 1, 1, 32, kConsumers>, FewStripTile<Element>, 16, false, 8, 6, 8, 32, 3>;
  using Middle = HopperSchedule<WgmmaTile<Element, 2, 1, 128, kConsumers>, StripTile<Element, 128, 4, 2>, 64, false, 6,
                                4, 4, 128, 2>;
  using Many = HopperSchedule<WgmmaTile<Element, 2, 2, 128, kConsumers>, StripTile<Element, 256, 8, 1>, 64, false, 4, 3,
                              3, 128, 2>;
};

// [rows, columns] in boxes of 64 columns.
inline simt::TensorMap tilesOf(int32_t dtype, const void* base, int64_t rows, int64_t columns, int64_t stride,
                               int boxRows) {
  simt::TensorMap map;
  const uint64_t sizes[] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows)};
  const uint64_t strides[] = {static_cast<uint64_t>(stride)};
  const uint32_t box[] = {64, static_cast<uint32_t>(boxRows)};
  const simt::MapType type = dtype == RANKONE_BF16 ? simt::MapType::BF16 : simt::MapType::F16;
  expect(simt::make_tensor_map(&map, type, 2, base, sizes, strides, box, simt::Swizzle::B128), "a tensor map");
  return map;
}

template <class Schedule>
size_t hopperShared(const LoraCall& call) {
  const WeightFormat& format = call.args.format;
  size_t tiles = Schedule::RING * (Schedule::X + Schedule::W);
  if (!Schedule::DIRECT)
    tiles += static_cast<size_t>(Schedule::GROUPS * Schedule::RAW * rawBytes(Schedule::Base::BN, 64, format));
  return offsetof(HopperShared<Schedule>, ring) +
         std::max(tiles, loraRing<Schedule>(format, false, LoraDTypes(call.problem).come));
}

template <class Schedule>
void launchHopper(LoraCall& call) {
  using Base = typename Schedule::Base;
  constexpr int32_t dtype = Base::Element::kFormat;
  const RankoneLora& p = call.problem;
  LoraWork work(call, Base::BM, Base::BN, Schedule::RANKS, true);
  LoraForwardArgs& args = work.args;
  // A box of x is rows that follow each other.
  const Scratch<uint8_t> operand = makeOperand(call.stream, p, args, dtype, work.plan.sorted() ? nullptr : args.order);
  HopperMaps maps = {};
  if (args.hasBase && p.in > 0 && p.out > 0) {
    maps.x = tilesOf(dtype, args.operand, p.rows, p.in, args.operandStride, Base::BM);
    if (Schedule::DIRECT) maps.w = tilesOf(dtype, args.codes, p.out, p.in, args.format.rowBytes, Base::BN);
  }
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(work.items(), call.stream.info().multiprocessors));
  call.stream.launchAs(work.how(), "loraForward", loraHopperKernel<Schedule>, dim3(blocks),
                       dim3(Schedule::THREADS + kProducerThreads), hopperShared<Schedule>(call), args, maps);
}

template <class Element, bool DIRECT>
void runHopper(LoraCall& call) {
  using Schedules = HopperSchedules<Element, DIRECT>;
  using Many = typename Schedules::Many::Base;
  const RankoneLora& p = call.problem;
  const int64_t tiles = ((p.rows + Many::BM - 1) / Many::BM) * ((p.out + Many::BN - 1) / Many::BN);
  if (p.rows <= 64) {
    launchHopper<typename Schedules::Few>(call);
  } else if (5 * tiles >= 2 * call.stream.info().multiprocessors) {
    launchHopper<typename Schedules::Many>(call);
  } else {
    launchHopper<typename Schedules::Middle>(call);
  }
}

template <class Element>
bool runHopper(LoraCall& call) {
  using Few = typename HopperSchedules<Element, true>::Few;
  if (call.stream.mostThreads(reinterpret_cast<const void*>(loraHopperKernel<Few>)) < Few::THREADS) return false;
  const bool direct = !call.args.hasBase || call.args.format.format == Element::kFormat;
  direct ? runHopper<Element, true>(call) : runHopper<Element, false>(call);
  return true;
}

}  // namespace rankone::cuda
