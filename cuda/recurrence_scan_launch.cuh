// Which form of the scan's kernel a problem and a device take.
#pragma once
#include <cstddef>

#include "recurrence_scan.cuh"

namespace rankone::cuda {

template <int KW, int KS, int VB, bool DELTA, bool CHANNEL>
size_t scanBytes(int stages) {
  using Shared = ScanShared<KW, KS, VB, DELTA, CHANNEL>;
  return offsetof(Shared, stages) + static_cast<size_t>(stages) * sizeof(typename Shared::Stage);
}

template <int KW, int KS, int VB, bool DELTA, bool CHANNEL>
void launchScan(Stream& stream, ScanArgs args, int64_t segments) {
  const size_t limit = sharedBytesOf(stream.info());
  args.stages = scanBytes<KW, KS, VB, DELTA, CHANNEL>(2) <= limit ? 2 : 1;
  const int64_t columns = (args.V + VB - 1) / VB;
  stream.launch(
      "scanKernel", scanKernel<KW, KS, VB, DELTA, CHANNEL>, dim3(static_cast<unsigned>(segments * args.HV * columns)),
      dim3(Scan<KW, KS, VB, DELTA, CHANNEL>::THREADS), scanBytes<KW, KS, VB, DELTA, CHANNEL>(args.stages), args);
}

template <bool DELTA, bool CHANNEL>
void launchScan(Stream& stream, const ScanArgs& args, int64_t segments) {
  switch (args.layout.KD) {
    case 64: return launchScan<64, 1, 32, DELTA, CHANNEL>(stream, args, segments);
    case 128: return launchScan<128, 1, 32, DELTA, CHANNEL>(stream, args, segments);
    default:
      if (scanBytes<128, 2, 32, DELTA, CHANNEL>(1) <= sharedBytesOf(stream.info()))
        return launchScan<128, 2, 32, DELTA, CHANNEL>(stream, args, segments);
      // Delta with gates per channel is what does not fit into 99 KB.
      if (scanBytes<128, 2, 16, DELTA, CHANNEL>(1) > sharedBytesOf(stream.info()))
        throw Failure(1, "K above 128 with gates per channel in chunks needs more shared memory than this device has");
      return launchScan<128, 2, 16, DELTA, CHANNEL>(stream, args, segments);
  }
}

}  // namespace rankone::cuda
