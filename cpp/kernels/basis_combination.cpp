#include "kernels/basis_combination.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/basis_combination.inl"
#include "core/foreach_isa.h"

namespace rankone {

void basisCombination(const BasisCombinationArgs& args) { RANKONE_PICK(basisCombination)(args); }
void basisCombinationBackward(const BasisCombinationBackwardArgs& args) {
  RANKONE_PICK(basisCombinationBackward)(args);
}

}  // namespace rankone
