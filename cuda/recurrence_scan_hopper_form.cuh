// The kernels of recurrence_scan_hopper.cuh by K, update and gate.
#pragma once
#include <cstddef>

#include "recurrence_scan_hopper.cuh"

namespace rankone::cuda {

struct HopperScanForm {
  void (*kernel)(HopperScanArgs);
  int threads;
  size_t (*bytes)(int stages, int queryStages, int head);
};

template <int KW, int KS, bool DELTA, bool CHANNEL>
HopperScanForm hopperScanForm() {
  return {hopperScanKernel<KW, KS, DELTA, CHANNEL>, HopperScan<KW, KS, DELTA, CHANNEL>::THREADS,
          HopperScanShared<KW, KS, DELTA, CHANNEL>::bytes};
}
template <bool DELTA, bool CHANNEL>
HopperScanForm hopperScanForm(int KD) {
  return KD == 64    ? hopperScanForm<64, 1, DELTA, CHANNEL>()
         : KD == 128 ? hopperScanForm<128, 1, DELTA, CHANNEL>()
                     : hopperScanForm<128, 2, DELTA, CHANNEL>();
}

// In files of their own, as the launchers of mma.sync are.
HopperScanForm hopperScan(bool delta, int KD);
HopperScanForm hopperChannelScan(bool delta, int KD);

}  // namespace rankone::cuda
