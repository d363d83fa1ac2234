#include "kernels/row_sum.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/row_sum.inl"
#include "core/foreach_isa.h"

namespace rankone {

void rowSum(const RowSumArgs& args) { RANKONE_PICK(rowSum)(args); }

}  // namespace rankone
