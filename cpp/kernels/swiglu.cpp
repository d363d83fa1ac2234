#include "kernels/swiglu.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/swiglu.inl"
#include "core/foreach_isa.h"

namespace rankone {

void swiglu(const SwigluArgs& args) { RANKONE_PICK(swiglu)(args); }
void swigluBackward(const SwigluBackwardArgs& args) { RANKONE_PICK(swigluBackward)(args); }

}  // namespace rankone
