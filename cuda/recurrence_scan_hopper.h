// The scan over chunks on Hopper, with wgmma and TMA: recurrence.md.
#pragma once
#include "recurrence_scan.h"

namespace rankone::cuda {

// Whether the device has it and gains by it. `args` as for scanChunks.
bool takesHopperScan(Stream& stream, const RankoneRecurrence& problem, const ScanArgs& args);
// args.workspace has `slots` chunks of every value head.
void scanHopperChunks(Stream& stream, const RankoneRecurrence& problem, const ScanArgs& args, int64_t slots,
                      int64_t segments);

}  // namespace rankone::cuda
