#include "kernels/liger.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/liger.inl"
#include "core/foreach_isa.h"

namespace rankone {

void ligerPrepare(const LigerArgs& args) { RANKONE_PICK(ligerPrepare)(args); }
void ligerGradients(const LigerBackwardArgs& args) { RANKONE_PICK(ligerGradients)(args); }
void ligerMix(const LigerMixArgs& args) { RANKONE_PICK(ligerMix)(args); }
void ligerScale(const LigerScaleArgs& args) { RANKONE_PICK(ligerScale)(args); }

}  // namespace rankone
