#include "kernels/cross_entropy.h"

#include "core/error.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/cross_entropy.inl"
#include "core/foreach_isa.h"

namespace rankone {

void crossEntropy(const CrossEntropyArgs& args) { RANKONE_PICK(crossEntropy)(args); }
void crossEntropyBackward(const CrossEntropyBackwardArgs& args) { RANKONE_PICK(crossEntropyBackward)(args); }

}  // namespace rankone
