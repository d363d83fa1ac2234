#include "recurrence_scan_launch.cuh"

namespace rankone::cuda {

void scanChannelChunks(Stream& stream, ScanArgs args, bool delta, int64_t segments) {
  delta ? launchScan<true, true>(stream, args, segments) : launchScan<false, true>(stream, args, segments);
}

}  // namespace rankone::cuda
