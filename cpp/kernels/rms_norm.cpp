#include "kernels/rms_norm.h"

#include "kernels/row_sum.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/rms_norm.inl"
#include "core/foreach_isa.h"

namespace rankone {

void rmsNorm(const RmsNormArgs& args) { RANKONE_PICK(rmsNorm)(args); }
void rmsNormBackward(const RmsNormBackwardArgs& args) { RANKONE_PICK(rmsNormBackward)(args); }

}  // namespace rankone
