#include "kernels/ttt_linear.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/ttt_linear.inl"
#include "core/foreach_isa.h"

namespace rankone {

void tttLinear(const TttForward& args) { RANKONE_PICK(tttLinear)(args); }
void tttLinearBackward(const TttBackward& args) { RANKONE_PICK(tttLinearBackward)(args); }

}  // namespace rankone
