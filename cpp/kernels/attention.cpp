#include "kernels/attention.h"

#include "kernels/attention_plan.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/attention.inl"
#include "core/foreach_isa.h"

namespace rankone {

void attention(const AttentionArgs& args) { RANKONE_PICK(attention)(args); }

}  // namespace rankone
