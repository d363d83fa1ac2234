#include "kernels/short_conv.h"

#include "kernels/row_sum.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/short_conv.inl"
#include "core/foreach_isa.h"

namespace rankone {

void shortConv(const ShortConvArgs& args) { RANKONE_PICK(shortConv)(args); }
void shortConvBackward(const ShortConvBackwardArgs& args) { RANKONE_PICK(shortConvBackward)(args); }

}  // namespace rankone
