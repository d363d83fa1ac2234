#include "recurrence_scan_hopper_form.cuh"

namespace rankone::cuda {

HopperScanForm hopperChannelScan(bool delta, int KD) {
  return delta ? hopperScanForm<true, true>(KD) : hopperScanForm<false, true>(KD);
}

}  // namespace rankone::cuda
