#include "kernels/gated_scan.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/gated_scan.inl"
#include "core/foreach_isa.h"

namespace rankone {

void gatedScan(const GatedScanForward& args) { RANKONE_PICK(gatedScan)(args); }
void gatedScanBackward(const GatedScanBackward& args) { RANKONE_PICK(gatedScanBackward)(args); }

}  // namespace rankone
