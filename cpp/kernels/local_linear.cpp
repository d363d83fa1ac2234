#include "kernels/local_linear.h"

#include "kernels/attention_plan.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/local_linear.inl"
#include "core/foreach_isa.h"

namespace rankone {

void localLinear(const LocalLinearArgs& args) { RANKONE_PICK(localLinear)(args); }

}  // namespace rankone
