#include "recurrence_scan_launch.cuh"

namespace rankone::cuda {

void scanChunks(Stream& stream, ScanArgs args, bool delta, int64_t segments) {
  delta ? launchScan<true, false>(stream, args, segments) : launchScan<false, false>(stream, args, segments);
}

}  // namespace rankone::cuda
