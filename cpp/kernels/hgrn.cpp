#include "kernels/hgrn.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/hgrn.inl"
#include "core/foreach_isa.h"

namespace rankone {

void hgrn(const HgrnForward& args) { RANKONE_PICK(hgrn)(args); }
void hgrnBackward(const HgrnBackward& args) { RANKONE_PICK(hgrnBackward)(args); }

}  // namespace rankone
