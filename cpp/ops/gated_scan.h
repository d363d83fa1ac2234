// What dplr, rwkv7 and rwkv6 share: their arguments, checked, as the kernels take them.
#pragma once
#include "kernels/gated_scan.h"
#include "ops/op.h"

namespace rankone {

// Where a spec has what. q, k, v and g are its first inputs in any case.
struct GatedScanSpec {
  ScanRule rule;
  int a, b, bonus;  // inputs, or -1
  int initialState, cuSeqlens;
  double scale;  // where none is given; 0: K^-0.5
};

namespace gated_scan_inputs {
enum { kQ, kK, kV, kG };
}
namespace gated_scan_options {
enum { kScale, kOutputFinalState, kGradDtype = kOutputFinalState };
}

// Inputs after cuSeqlens: stateIndices of a forward, dO and dFinalState of a backward. Outputs of a forward: o,
// finalState; of a backward one per input, in their order, without indices.
void planGatedScan(Call& call, const GatedScanSpec& spec);
void runGatedScan(const Call& call, const GatedScanSpec& spec);
void planGatedScanBackward(Call& call, const GatedScanSpec& spec);
void runGatedScanBackward(const Call& call, const GatedScanSpec& spec);

}  // namespace rankone
