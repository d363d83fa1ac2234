#include "kernels/attention_plan.h"
#include "kernels/local_linear.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/local_linear_backward.inl"
#include "core/foreach_isa.h"

namespace rankone {

void localLinearBackward(const LocalLinearBackwardArgs& args) { RANKONE_PICK(localLinearBackward)(args); }

}  // namespace rankone
