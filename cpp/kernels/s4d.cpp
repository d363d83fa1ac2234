#include "kernels/s4d.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/s4d.inl"
#include "core/foreach_isa.h"

namespace rankone {

void s4d(const S4dForward& args) { RANKONE_PICK(s4d)(args); }
void s4dBackward(const S4dBackward& args) { RANKONE_PICK(s4dBackward)(args); }

}  // namespace rankone
