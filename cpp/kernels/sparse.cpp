#include "kernels/sparse.h"

#include <algorithm>

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/sparse.inl"
#include "core/foreach_isa.h"

namespace rankone {

void spmm(const SpmmArgs& args) { RANKONE_PICK(spmm)(args); }
void sddmm(const SddmmArgs& args) { RANKONE_PICK(sddmm)(args); }
void scatterAdd(const ScatterAddArgs& args) { RANKONE_PICK(scatterAdd)(args); }

}  // namespace rankone
