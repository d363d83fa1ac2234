#include "kernels/adam_w.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/adam_w.inl"
#include "core/foreach_isa.h"

namespace rankone {

void adamW(const AdamWArgs& args) { RANKONE_PICK(adamW)(args); }

}  // namespace rankone
