#include "kernels/scaled_sum.h"

#include <algorithm>

#define RANKONE_KERNEL "kernels/scaled_sum.inl"
#include "core/foreach_isa.h"

namespace rankone {

void scaledSum(const ScaledSumArgs& args) { RANKONE_PICK(scaledSum)(args); }

}  // namespace rankone
