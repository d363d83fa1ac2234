#include "kernels/bidirectional_attention.h"

#include <algorithm>

#include "kernels/bidirectional_plan.h"

#define RANKONE_KERNEL "kernels/bidirectional_attention.inl"
#include "core/foreach_isa.h"

namespace rankone {

void bidirectionalAttention(const BidirectionalArgs& args) {
  RANKONE_PICK(bidirectionalAttention)(args, planBidirectional(args, false));
}

}  // namespace rankone
