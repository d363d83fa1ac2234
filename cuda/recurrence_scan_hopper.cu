#include <cstdint>

#include "recurrence_scan_hopper.h"
#include "recurrence_scan_hopper_form.cuh"

namespace rankone::cuda {
namespace {

// With fewer columns half of the products would be of zeros.
constexpr int kLeastColumns = 32;

HopperScanForm formOf(const RankoneRecurrence& p, int KD) {
  const bool delta = p.update == RANKONE_DELTA;
  return p.gate == RANKONE_GATE_CHANNEL ? hopperChannelScan(delta, KD) : hopperScan(delta, KD);
}

// Of [third][second][columns] in elements of 16 bits; strides in bytes. Boxes of 64 columns.
simt::TensorMap rowsMap(const void* base, int64_t columns, int64_t second, int64_t third, int64_t secondStride,
                        int64_t thirdStride, uint32_t secondBox, uint32_t thirdBox) {
  const uint64_t sizes[] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(second),
                            static_cast<uint64_t>(third)};
  const uint64_t strides[] = {static_cast<uint64_t>(secondStride), static_cast<uint64_t>(thirdStride)};
  const uint32_t box[] = {64, secondBox, thirdBox};
  simt::TensorMap map = {};
  expect(simt::make_tensor_map(&map, simt::MapType::BF16, 3, base, sizes, strides, box, simt::Swizzle::B128),
         "a tensor map of the scan");
  return map;
}

// The first `bytes`, a multiple of 128, of slots that lie `stride` apart.
simt::TensorMap headMap(const char* base, int bytes, int64_t slots, int64_t stride) {
  const uint64_t sizes[] = {32, static_cast<uint64_t>(bytes / 128), static_cast<uint64_t>(slots)};
  const uint64_t strides[] = {128, static_cast<uint64_t>(stride)};
  const uint32_t box[] = {32, static_cast<uint32_t>(bytes / 128), 1};
  simt::TensorMap map = {};
  expect(simt::make_tensor_map(&map, simt::MapType::F32, 3, base, sizes, strides, box, simt::Swizzle::NONE),
         "a tensor map of the scan");
  return map;
}

}  // namespace

HopperScanForm hopperScan(bool delta, int KD) {
  return delta ? hopperScanForm<true, false>(KD) : hopperScanForm<false, false>(KD);
}

bool takesHopperScan(Stream& stream, const RankoneRecurrence& p, const ScanArgs& args) {
  const RankoneDeviceInfo& info = stream.info();
  if (info.major != 9 || args.V <= kLeastColumns || !args.workspace) return false;
  if (p.B * p.T * p.n > INT32_MAX) return false;  // coordinates of TMA
  const HopperScanForm form = formOf(p, args.layout.KD);
  return form.bytes(2, 1, args.layout.head) <= sharedBytesOf(info) &&
         stream.mostThreads(reinterpret_cast<const void*>(form.kernel)) >= form.threads;
}

void scanHopperChunks(Stream& stream, const RankoneRecurrence& p, const ScanArgs& scan, int64_t slots,
                      int64_t segments) {
  const HopperScanForm form = formOf(p, scan.layout.KD);
  const PrepLayout& layout = scan.layout;
  const int64_t tokens = p.B * p.T, keyRow = scan.Kp * int64_t{2}, valueRow = scan.Vp * int64_t{2};
  const uint32_t rows = static_cast<uint32_t>(layout.tokens * layout.n), ofQ = static_cast<uint32_t>(layout.tokens);
  HopperScanArgs args{};
  args.scan = scan;
  if (p.gate == RANKONE_GATE_CHANNEL) {
    const auto map = [&](int32_t at, uint32_t count) {
      return rowsMap(scan.workspace + at, scan.Kp, count, slots * scan.HV, keyRow, layout.bytes, count, 1);
    };
    args.kOut = map(layout.kOutRows, rows);
    if (p.update == RANKONE_DELTA) args.kIn = map(layout.kInRows, rows);
    if (scan.o) args.q = map(layout.qInRows, ofQ);
  } else {
    args.kOut = rowsMap(scan.k, scan.Kp, scan.H, tokens * p.n, keyRow, scan.H * keyRow, 1, rows);
    if (scan.o) args.q = rowsMap(scan.q, scan.Kp, scan.H, tokens, keyRow, scan.H * keyRow, 1, ofQ);
  }
  if (scan.v) args.v = rowsMap(scan.v, scan.Vp, scan.HV, tokens * p.n, valueRow, scan.HV * valueRow, 1, rows);
  args.head = headMap(scan.workspace, layout.head, slots * scan.HV, layout.bytes);

  // Where multiprocessors have two blocks each, these hide each other's waits; else more chunks are on their way.
  const int64_t columns = (scan.V + kHopperColumns - 1) / kHopperColumns, blocks = segments * scan.HV * columns;
  const size_t limit = sharedBytesOf(stream.info()), kReserved = 1024;
  const size_t wanted = blocks > stream.info().multiprocessors ? (limit + kReserved) / 2 - kReserved : limit;
  constexpr int kDepths[][2] = {{3, 3}, {2, 2}, {2, 1}};
  for (const auto& depth : kDepths) {
    args.scan.stages = depth[0];
    args.queryStages = depth[1];
    if (form.bytes(depth[0], depth[1], layout.head) <= wanted) break;
  }
  stream.launch("hopperScanKernel", form.kernel, dim3(static_cast<unsigned>(blocks)),
                dim3(static_cast<unsigned>(form.threads)), form.bytes(args.scan.stages, args.queryStages, layout.head),
                args);
}

}  // namespace rankone::cuda
