#include "kernels/attention.h"
#include "kernels/attention_plan.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/attention_backward.inl"
#include "core/foreach_isa.h"

namespace rankone {

void attentionBackward(const AttentionBackwardArgs& args) { RANKONE_PICK(attentionBackward)(args); }

}  // namespace rankone
