#include "kernels/dora_norms.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/dora_norms.inl"
#include "core/foreach_isa.h"

namespace rankone {

void doraNorms(const DoraNormsArgs& args) { RANKONE_PICK(doraNorms)(args); }

}  // namespace rankone
