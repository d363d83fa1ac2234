#include "kernels/rope.h"

#include <cmath>

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/rope.inl"
#include "core/foreach_isa.h"

namespace rankone {

void rope(const RopeArgs& args) { RANKONE_PICK(rope)(args); }

}  // namespace rankone
